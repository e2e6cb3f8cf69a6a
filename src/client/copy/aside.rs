//! Work that could block, or takes long, and has no place on the thread that moves the bytes.

use std::cell::Cell;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::thread;

use anyhow::{Result, bail};

use crate::limits::CLIENT_WORKERS;
use crate::reactor::Waker;

type Work = Box<dyn FnOnce() + Send>;

/// A few threads, started when there is first something to do for them.
pub struct Aside {
    waker: Waker,
    sender: Sender<Work>,
    receiver: Arc<Mutex<Receiver<Work>>>,
    /// How many there are; `None`: none was needed yet.
    threads: Cell<Option<usize>>,
}

impl Aside {
    /// `waker` is that of the loop that asks the tasks.
    pub fn new(waker: Waker) -> Aside {
        let (sender, receiver) = mpsc::channel();
        let receiver = Arc::new(Mutex::new(receiver));
        Aside { waker, sender, receiver, threads: Cell::new(None) }
    }

    /// What `work` comes to.
    ///
    /// # Errors
    /// There is no thread to do it.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        // Better late than never.
        if self.threads() == 0 {
            return Ok(work());
        }
        let (told, answer) = mpsc::channel();
        let waker = self.waker.clone();
        let work = move || {
            // A task that is no more needs no answer.
            let _ = told.send(work());
            waker.wake();
        };
        if self.sender.send(Box::new(work)).is_err() {
            bail!("no thread to work with");
        }
        std::future::poll_fn(move |_| match answer.try_recv() {
            Ok(done) => Poll::Ready(Ok(done)),
            Err(TryRecvError::Empty) => Poll::Pending,
            Err(TryRecvError::Disconnected) => {
                Poll::Ready(Err(anyhow::anyhow!("what was to be done has not been")))
            }
        })
        .await
    }

    fn threads(&self) -> usize {
        if let Some(threads) = self.threads.get() {
            return threads;
        }
        let begin = |_: &usize| {
            let receiver = Arc::clone(&self.receiver);
            let name = "tidegate-aside".to_owned();
            thread::Builder::new().name(name).spawn(move || serve(&receiver)).is_ok()
        };
        let threads = (0..CLIENT_WORKERS).filter(begin).count();
        self.threads.set(Some(threads));
        threads
    }
}

fn serve(receiver: &Mutex<Receiver<Work>>) {
    loop {
        let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(work) => work(),
            Err(_) => return,
        }
    }
}
