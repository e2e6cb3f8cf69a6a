//! Somebody who types beside bulk downloads: how long each echo takes, and how the downloads share.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use tidegate::connection::{ChannelId, ChannelRequest, WindowSize};

use crate::client::{Client, Heard, Target};
use crate::sftp;

/// One READ, and as many under way as fill a window of 2 MiB twice.
const READ_BYTES: u32 = 255 * 1024;
const UNDER_WAY_BYTES: u64 = 4 * 1024 * 1024;
/// Between two keys: a fast typist's machine, so that there are enough figures in a short time.
const KEY_EVERY: Duration = Duration::from_millis(5);
/// Downloads run for so long before anything counts.
const WARM_UP: Duration = Duration::from_millis(500);
/// Upper bounds of the histogram's classes, in microseconds; one more class holds the rest.
const CLASSES_US: [u64; 12] =
    [100, 200, 500, 1000, 2000, 3000, 5000, 7000, 10_000, 15_000, 20_000, 50_000];

/// Prints a name and its figures a line.
pub fn run(target: &Target, flows: usize, time: Duration, file: &str) -> Result<()> {
    let taken: Vec<AtomicU64> = (0..flows).map(|_| AtomicU64::new(0)).collect();
    let over = AtomicBool::new(false);
    let ready = Barrier::new(flows + 1);
    let (mut echoes, passed, moved) = thread::scope(|scope| {
        let downloads: Vec<_> = taken
            .iter()
            .map(|taken| scope.spawn(|| download(target, file, (taken, &over), &ready)))
            .collect();
        let typed = watch(target, &taken, time, &ready);
        over.store(true, Ordering::Relaxed);
        for download in downloads {
            download.join().expect("no panic")?;
        }
        typed
    })?;
    echoes.sort_unstable();
    let rank = |share: f64| echoes[((echoes.len() - 1) as f64 * share) as usize];
    println!("echo_count {}", echoes.len());
    for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)] {
        println!("echo_{name}_ms {:.3}", rank(share).as_secs_f64() * 1000.0);
    }
    let mut counts = [0; CLASSES_US.len() + 1];
    for echo in &echoes {
        let fits = |most: &u64| echo.as_micros() <= u128::from(*most);
        counts[CLASSES_US.iter().position(fits).unwrap_or(CLASSES_US.len())] += 1;
    }
    let counts: Vec<String> = counts.iter().map(u64::to_string).collect();
    println!("echo_histogram {}", counts.join(" "));
    let sum: u64 = moved.iter().sum();
    if sum > 0 {
        println!("echo_bulk_mib {:.3}", passed as f64 / echoes.len() as f64 / f64::from(1 << 20));
        let mean = sum as f64 / flows as f64;
        println!("gib_per_s {:.3}", sum as f64 / time.as_secs_f64() / f64::from(1 << 30));
        println!("least_share {:.3}", *moved.iter().min().expect("some") as f64 / mean);
        println!("most_share {:.3}", *moved.iter().max().expect("some") as f64 / mean);
    }
    Ok(())
}

/// Types for a time; answers how long each echo took, how many bytes of downloads came while one was
/// under way, and what each download got.
fn watch(
    target: &Target,
    taken: &[AtomicU64],
    time: Duration,
    ready: &Barrier,
) -> Result<(Vec<Duration>, u64, Vec<u64>)> {
    let typist = Typist::start(target);
    ready.wait();
    thread::sleep(WARM_UP);
    let read = || taken.iter().map(|taken| taken.load(Ordering::Relaxed)).collect::<Vec<_>>();
    let (before, end, mut typist) = (read(), Instant::now() + time, typist?);
    let (mut echoes, mut passed) = (Vec::new(), 0);
    while Instant::now() < end {
        let earlier: u64 = read().iter().sum();
        echoes.push(typist.key()?);
        passed += read().iter().sum::<u64>() - earlier;
        thread::sleep(KEY_EVERY);
    }
    let moved = read().iter().zip(before).map(|(after, before)| after - before).collect();
    Ok((echoes, passed, moved))
}

/// A terminal whose line discipline echoes, as a shell's does while it reads.
struct Typist<'a> {
    client: Client<'a>,
    id: ChannelId,
}

impl<'a> Typist<'a> {
    fn start(target: &'a Target) -> Result<Typist<'a>> {
        let mut client = Client::login(target)?;
        let size = WindowSize { columns: 80, rows: 24, ..WindowSize::default() };
        let term = "xterm".into();
        let id = client.session(&[
            ChannelRequest::PtyReq { term, size, modes: Box::new([]) },
            ChannelRequest::Exec {
                command: b"stty raw echo; echo R; exec cat > /dev/null"[..].into(),
            },
        ])?;
        client.wait(|heard| match heard {
            Heard::Data { bytes } => bytes.contains(&b'R').then_some(()),
            _ => None,
        })?;
        // The line's end may come in a packet of its own.
        thread::sleep(WARM_UP);
        Ok(Typist { client, id })
    }

    fn key(&mut self) -> Result<Duration> {
        let started = Instant::now();
        self.client.write(self.id, b"k")?;
        self.client.wait(|heard| match heard {
            Heard::Data { bytes } => Some(bytes.contains(&b'k')).filter(|echoed| *echoed),
            _ => None,
        })?;
        Ok(started.elapsed())
    }
}

/// Reads the file over and over by SFTP, as fast as it comes.
fn download(
    target: &Target,
    file: &str,
    (taken, over): (&AtomicU64, &AtomicBool),
    ready: &Barrier,
) -> Result<()> {
    let opened = sftp::start(target).and_then(|(mut client, id)| {
        let handle = sftp::open(&mut client, id, file)?;
        Ok((client, id, handle))
    });
    ready.wait();
    let (mut client, id, handle) = opened?;
    let whole = std::fs::metadata(file)?.len();
    let (mut asked, mut got, mut offset) = (0, 0, 0_u64);
    while !over.load(Ordering::Relaxed) {
        while asked < got + UNDER_WAY_BYTES {
            let place = [&offset.to_be_bytes()[..], &READ_BYTES.to_be_bytes()].concat();
            client.write(id, &sftp::request(sftp::READ, &[&handle, &place]))?;
            asked += u64::from(READ_BYTES) + 13;
            offset = (offset + u64::from(READ_BYTES)) % (whole - u64::from(READ_BYTES));
        }
        if let Heard::Data { bytes } = client.hear()? {
            got += bytes.len() as u64;
            taken.store(got, Ordering::Relaxed);
        }
    }
    client.disconnect()
}
