//! Where the tasks of a copy and the sessions that carry their requests meet. No I/O: tasks leave
//! orders and wait for what comes of them; [`super::run()`] carries both.
//!
//! A task is a future. There is no waker: whenever something has come, all tasks are asked, and there
//! are never many of them.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::trouble::Trouble;
use crate::services::Io;
use crate::services::sftp_client::{Answer, Moved, Offers, SftpClient};

/// What is done with a session when there is one to do it with.
pub type Call = Box<dyn FnOnce(&mut SftpClient, &mut Io<'_>)>;

/// Something for one session.
pub struct Order {
    pub station: usize,
    pub what: What,
}

/// What is to be done.
pub enum What {
    Call(Call),
    /// To be run beside the session, for so long at most.
    Command {
        ticket: u32,
        command: Vec<u8>,
        patience: Duration,
    },
}

/// What has come for a ticket.
#[derive(Debug)]
pub enum Came {
    Answer(Answer),
    Moved(Moved),
    /// By a command; `None`: it has not ended well.
    Said(Option<Vec<u8>>),
}

/// One SFTP session, as tasks see it.
#[derive(Clone, Debug, Default)]
pub struct Station {
    pub offers: Offers,
    /// Why it is no more.
    pub lost: Option<String>,
    /// It does not come back.
    pub given_up: bool,
    /// How often it has come back: handles of an earlier session mean nothing to a later one.
    pub epoch: u32,
    /// Files under way on it.
    pub load: usize,
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

#[derive(Default)]
struct State {
    tickets: u32,
    orders: VecDeque<Order>,
    came: HashMap<u32, Came>,
    stations: Vec<Station>,
    tasks: Vec<Task>,
    begun: Vec<Task>,
    /// Nobody waits for it.
    companion: Option<Task>,
}

/// Shared by all tasks of one copy.
#[derive(Clone, Default)]
pub struct Desk {
    state: Rc<RefCell<State>>,
}

impl Desk {
    /// Begins a task; it runs from the next [`Desk::run`] on.
    pub fn begin(&self, task: impl Future<Output = ()> + 'static) {
        self.state.borrow_mut().begun.push(Box::pin(task));
    }

    /// Begins a task that ends with the last of the others, wherever it is then.
    pub fn accompany(&self, task: impl Future<Output = ()> + 'static) {
        self.state.borrow_mut().companion = Some(Box::pin(task));
    }

    /// Lets every task go as far as it can. False: there are none any more.
    pub fn run(&self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let companion = self.state.borrow_mut().companion.take();
        if let Some(mut task) = companion
            && task.as_mut().poll(&mut context).is_pending()
        {
            self.state.borrow_mut().companion = Some(task);
        }
        let mut tasks = {
            let mut state = self.state.borrow_mut();
            let mut tasks = std::mem::take(&mut state.tasks);
            tasks.append(&mut state.begun);
            tasks
        };
        loop {
            let before = tasks.len();
            tasks.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
            let ended = tasks.len() < before;
            let mut state = self.state.borrow_mut();
            // Whoever was asked before may have waited for just that.
            if state.begun.is_empty() && !ended {
                state.tasks = tasks;
                return !state.tasks.is_empty();
            }
            tasks.append(&mut state.begun);
        }
    }

    pub fn next_order(&self) -> Option<Order> {
        self.state.borrow_mut().orders.pop_front()
    }

    pub fn deliver(&self, ticket: u32, came: Came) {
        self.state.borrow_mut().came.insert(ticket, came);
    }

    pub fn add_station(&self, offers: Offers) -> usize {
        let mut state = self.state.borrow_mut();
        state.stations.push(Station { offers, ..Station::default() });
        state.stations.len() - 1
    }

    pub fn lose(&self, station: usize, why: &str) {
        if let Some(station) = self.state.borrow_mut().stations.get_mut(station) {
            station.lost.get_or_insert_with(|| why.to_owned());
        }
    }

    /// A new session stands in the place of a lost one.
    pub fn revive(&self, station: usize, offers: Offers) {
        if let Some(station) = self.state.borrow_mut().stations.get_mut(station) {
            station.offers = offers;
            station.lost = None;
            station.epoch = station.epoch.wrapping_add(1);
        }
    }

    pub fn give_up(&self, station: usize, why: &str) {
        if let Some(station) = self.state.borrow_mut().stations.get_mut(station) {
            station.lost = Some(why.to_owned());
            station.given_up = true;
        }
    }

    /// Waits until one of these sessions is there (again).
    ///
    /// # Errors
    /// None of them comes back.
    pub async fn any_of(&self, stations: &[usize]) -> Result<(), Trouble> {
        std::future::poll_fn(|_| {
            let all = stations.iter().map(|number| self.station(*number));
            let all: Vec<Station> = all.collect();
            if all.iter().any(|station| station.lost.is_none()) {
                return Poll::Ready(Ok(()));
            }
            match all.iter().find(|station| !station.given_up) {
                Some(_) => Poll::Pending,
                None => {
                    let why = all.into_iter().find_map(|station| station.lost);
                    Poll::Ready(Err(Trouble::Lost(why.unwrap_or_default())))
                }
            }
        })
        .await
    }

    pub fn station(&self, number: usize) -> Station {
        self.state.borrow().stations.get(number).cloned().unwrap_or_default()
    }

    /// Counts files under way on a session.
    pub fn charge(&self, station: usize, more: bool) {
        if let Some(station) = self.state.borrow_mut().stations.get_mut(station) {
            station.load = if more { station.load + 1 } else { station.load.saturating_sub(1) };
        }
    }

    /// Has a command run beside a session; [`Came::Said`] comes of it.
    pub fn command(&self, station: usize, command: Vec<u8>, patience: Duration) -> Coming {
        let mut state = self.state.borrow_mut();
        state.tickets = state.tickets.wrapping_add(1);
        let ticket = state.tickets;
        let what = What::Command { ticket, command, patience };
        state.orders.push_back(Order { station, what });
        let epoch = state.stations.get(station).map_or(0, |station| station.epoch);
        Coming { desk: self.clone(), station, epoch, ticket }
    }

    /// Leaves an order; what comes of it is to be waited for.
    pub fn order(
        &self,
        station: usize,
        call: impl FnOnce(u32, &mut SftpClient, &mut Io<'_>) + 'static,
    ) -> Coming {
        let coming = self.coming(station);
        let ticket = coming.ticket;
        let call: Call = Box::new(move |client, io| call(ticket, client, io));
        self.state.borrow_mut().orders.push_back(Order { station, what: What::Call(call) });
        coming
    }

    /// What is to come for a ticket that an order is left with.
    pub fn coming(&self, station: usize) -> Coming {
        let mut state = self.state.borrow_mut();
        state.tickets = state.tickets.wrapping_add(1);
        let ticket = state.tickets;
        let epoch = state.stations.get(station).map_or(0, |station| station.epoch);
        Coming { desk: self.clone(), station, epoch, ticket }
    }
}

/// What both come to, at once.
pub async fn both<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> (A, B) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let (mut first, mut second) = (None, None);
    std::future::poll_fn(move |context| {
        if first.is_none()
            && let Poll::Ready(done) = one.as_mut().poll(context)
        {
            first = Some(done);
        }
        if second.is_none()
            && let Poll::Ready(done) = other.as_mut().poll(context)
        {
            second = Some(done);
        }
        match (first.take(), second.take()) {
            (Some(first), Some(second)) => Poll::Ready((first, second)),
            (one, other) => {
                (first, second) = (one, other);
                Poll::Pending
            }
        }
    })
    .await
}

/// What is to come for a ticket.
#[must_use]
pub struct Coming {
    desk: Desk,
    station: usize,
    epoch: u32,
    pub ticket: u32,
}

impl Future for Coming {
    type Output = Result<Came, Trouble>;

    fn poll(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.desk.state.borrow_mut();
        if let Some(came) = state.came.remove(&self.ticket) {
            return Poll::Ready(Ok(came));
        }
        match state.stations.get(self.station) {
            Some(Station { lost: Some(why), .. }) => Poll::Ready(Err(Trouble::Lost(why.clone()))),
            // It was lost, and is back before this was asked.
            Some(station) if station.epoch != self.epoch => {
                Poll::Ready(Err(Trouble::Lost("the session was another one".to_owned())))
            }
            _ => Poll::Pending,
        }
    }
}

/// Numbered places, each of which one task has at a time.
#[derive(Clone)]
pub struct Places {
    free: Rc<RefCell<Vec<usize>>>,
}

/// A place that is held until this is dropped.
pub struct Place {
    free: Rc<RefCell<Vec<usize>>>,
    pub number: usize,
}

impl Places {
    pub fn new(count: usize) -> Places {
        Places { free: Rc::new(RefCell::new((0..count).rev().collect())) }
    }

    pub async fn take(&self) -> Place {
        let number = std::future::poll_fn(|_| match self.free.borrow_mut().pop() {
            Some(number) => Poll::Ready(number),
            None => Poll::Pending,
        })
        .await;
        Place { free: Rc::clone(&self.free), number }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.free.borrow_mut().push(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn who_waits_for_a_place_gets_it_when_a_later_task_ends() {
        let (desk, places, done) = (Desk::default(), Places::new(1), Rc::new(Cell::new(0)));
        let first = Rc::new(RefCell::new(None));
        for number in 0..3 {
            let (places, done, first) = (places.clone(), Rc::clone(&done), Rc::clone(&first));
            let inner = desk.clone();
            desk.begin(async move {
                let place = places.take().await;
                if number == 0 {
                    *first.borrow_mut() = Some(place);
                    // The place is given back by a task behind all who wait for it.
                    inner.begin(async move { drop(first.borrow_mut().take()) });
                }
                done.set(done.get() + 1);
            });
        }
        assert!(!desk.run(), "all have ended");
        assert_eq!(done.get(), 3);
    }

    #[test]
    fn a_companion_runs_and_is_not_waited_for() {
        let (desk, looked) = (Desk::default(), Rc::new(Cell::new(0)));
        let seen = Rc::clone(&looked);
        desk.accompany(std::future::poll_fn(move |_| {
            seen.set(seen.get() + 1);
            Poll::Pending
        }));
        let both = both(async { 1 }, async { "two" });
        desk.begin(async { assert_eq!(both.await, (1, "two")) });
        assert!(!desk.run() && looked.get() == 1);
    }

    #[test]
    fn what_waits_for_a_lost_session_hears_of_it() {
        let desk = Desk::default();
        let station = desk.add_station(Offers::default());
        let coming = desk.order(station, |_, _, _| {});
        let heard = Rc::new(Cell::new(false));
        let told = Rc::clone(&heard);
        desk.begin(async move {
            told.set(matches!(coming.await, Err(Trouble::Lost(why)) if why == "gone"));
        });
        assert!(desk.run() && !heard.get());
        desk.lose(station, "gone");
        assert!(!desk.run() && heard.get());
    }

    #[test]
    fn what_a_lost_session_was_asked_is_not_answered_by_the_next() {
        let desk = Desk::default();
        let station = desk.add_station(Offers::default());
        let coming = desk.order(station, |_, _, _| {});
        let (told, back) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(None)));
        let (heard, again) = (Rc::clone(&told), Rc::clone(&back));
        let inner = desk.clone();
        desk.lose(station, "gone");
        desk.begin(async move { again.set(Some(inner.any_of(&[station]).await.is_ok())) });
        assert!(desk.run() && back.get().is_none(), "it may come back");
        desk.revive(station, Offers::default());
        desk.begin(async move { heard.set(matches!(coming.await, Err(Trouble::Lost(_)))) });
        assert!(!desk.run() && told.get() && back.get() == Some(true));
        desk.give_up(station, "gone for good");
        let inner = desk.clone();
        let never = Rc::clone(&back);
        desk.begin(async move { never.set(Some(inner.any_of(&[station]).await.is_ok())) });
        assert!(!desk.run() && back.get() == Some(false));
    }
}
