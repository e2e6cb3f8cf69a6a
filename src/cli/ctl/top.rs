//! `ctl top`: what gateways do just now. Drawn in place on a terminal, a line for each look elsewhere.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, IsTerminal, PipeWriter, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::figures::{self, Process, Rates, Status};
use super::flags::{CtlFlags, What, Which};
use super::screen::{Screen, Typed};
use super::show::{latencies, title};
use super::sockets::{Place, ask_all};
use super::text::{table, word};
use crate::base::{Instant, amount};
use crate::gateway::signals::{Signals, Woken};
use crate::limits::CTL_ANSWER_TIME;
use crate::reactor::now;

/// One look at all gateways that are meant.
struct Look {
    views: Vec<View>,
    /// Why there is nothing to see.
    none: Option<String>,
    /// There was one before, from which rates are reckoned.
    has_rates: bool,
}

impl Look {
    /// Why nobody has said anything that can be shown.
    fn failed(&self) -> Option<String> {
        let unseen = |view: &View| match view {
            View::Seen(..) => None,
            View::Unseen(why) => Some(why.clone()),
        };
        let whys: Option<Vec<String>> = self.views.iter().map(unseen).collect();
        self.none.clone().or_else(|| whys.map(|whys| whys.join("\n")))
    }
}

/// What is seen of one gateway.
enum View {
    /// Without rates where it was not seen before.
    Seen(Box<Status>, Option<Box<Rates>>),
    Unseen(String),
}

/// Looks at gateways again and again.
struct Watch {
    which: Which,
    interval: Duration,
    next: Instant,
    before: BTreeMap<Place, (Instant, Status)>,
    looks: u64,
}

impl Watch {
    /// Looks once now, and then once each interval.
    fn look(&mut self) -> Look {
        thread::sleep(self.next.since(now()));
        self.next = now().after(self.interval);
        let has_rates = self.looks > 0;
        self.looks += 1;
        let answers = match ask_all(&self.which, What::Status.name(), CTL_ANSWER_TIME) {
            Ok(answers) => answers,
            Err(why) => {
                self.before.clear();
                return Look { views: Vec::new(), none: Some(why), has_rates };
            }
        };
        let mut before = std::mem::take(&mut self.before);
        let mut views = Vec::new();
        for (place, answer) in answers {
            let at = now();
            let read = answer.and_then(|answer| figures::status(figures::object(&answer)?));
            let view = match read {
                Err(why) => View::Unseen(format!("{}: {why}", place.name())),
                Ok(status) => {
                    let rates = before.remove(&place).map(|(then, earlier)| {
                        let seconds = at.since(then).as_secs_f64();
                        Box::new(Rates::between(&earlier, &status, seconds))
                    });
                    self.before.insert(place, (at, status.clone()));
                    View::Seen(Box::new(status), rates)
                }
            };
            views.push(view);
        }
        Look { views, none: None, has_rates }
    }
}

/// Runs `ctl top`.
///
/// # Errors
/// No gateway answers to begin with, or the system refused.
pub fn run(flags: &CtlFlags) -> Result<ExitCode, String> {
    let mut watch = Watch {
        which: flags.which.clone(),
        interval: flags.interval,
        next: now(),
        before: BTreeMap::new(),
        looks: 0,
    };
    let first = watch.look();
    if let Some(why) = first.failed() {
        return Err(why);
    }
    let shown = match io::stdout().is_terminal() {
        true => draw(watch, first, flags.count),
        false => list(watch, flags.count).map(|()| ExitCode::SUCCESS),
    };
    match shown {
        // Whoever reads has seen enough.
        Err(why) if why.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        other => other.map_err(|why| format!("cannot be shown: {why}")),
    }
}

/// A line for each gateway and look.
fn list(mut watch: Watch, count: Option<u64>) -> io::Result<()> {
    let mut out = io::stdout();
    for _ in 0..count.unwrap_or(u64::MAX) {
        let look = watch.look();
        for view in &look.views {
            match view {
                View::Seen(status, Some(rates)) => writeln!(out, "{}", line(status, rates))?,
                View::Seen(status, None) => writeln!(out, "{}: seen first", title(status))?,
                View::Unseen(why) => writeln!(out, "{why}")?,
            }
        }
        if let Some(why) = &look.none {
            writeln!(out, "{}", why.lines().next().unwrap_or_default())?;
        }
        out.flush()?;
    }
    Ok(())
}

/// Ends that come from elsewhere, and another size of the window.
const CAUGHT: [Signal; 5] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGWINCH];

/// The same in place, until somebody has seen enough.
fn draw(watch: Watch, first: Look, count: Option<u64>) -> io::Result<ExitCode> {
    let signals = Signals::catch(&CAUGHT)?;
    // A gateway that does not answer holds up no key.
    let (wakes, waker) = io::pipe()?;
    let (sender, looks) = sync_channel(1);
    thread::Builder::new()
        .name("looks".to_owned())
        .spawn(move || look_on(watch, &sender, waker))?;
    let (screen, input) = (Screen::enter()?, io::stdin());
    let (mut look, mut left) = (first, count);
    loop {
        screen.draw(&frame(&look, screen.size()))?;
        if look.has_rates && left.is_some_and(|left| left <= 1) {
            return Ok(ExitCode::SUCCESS);
        }
        let mut watched = vec![wakes.as_fd()];
        watched.extend(screen.keys(&input));
        match signals.wait(&watched, None)? {
            Woken::Ready(0) => {
                if look.has_rates {
                    left = left.map(|left| left - 1);
                }
                look = next_look(&wakes, &looks)?;
            }
            Woken::Ready(_) => match screen.typed()? {
                Typed::End => return Ok(ExitCode::SUCCESS),
                Typed::Suspend => screen.suspend()?,
                Typed::Nothing => {}
            },
            Woken::Signal(Signal::SIGINT) => return Ok(ExitCode::SUCCESS),
            Woken::Signal(Signal::SIGWINCH) | Woken::TimedOut => {}
            // As a shell tells it.
            Woken::Signal(signal) => return Ok(ExitCode::from(128 | signal as u8)),
        }
    }
}

/// Passes on what it sees, with a byte for each, until nobody wants it.
fn look_on(mut watch: Watch, sender: &SyncSender<Look>, mut waker: PipeWriter) {
    loop {
        let look = watch.look();
        if sender.send(look).is_err() || waker.write_all(&[0]).is_err() {
            return;
        }
    }
}

fn next_look(wakes: &io::PipeReader, looks: &Receiver<Look>) -> io::Result<Look> {
    nix::unistd::read(wakes, &mut [0])?;
    looks.recv().map_err(|_| ErrorKind::UnexpectedEof.into())
}

/// What happened in one interval, in one line.
fn line(status: &Status, rates: &Rates) -> String {
    format!(
        "{}  {}  {}  {}",
        title(status),
        connections(status, rates).join("  "),
        bytes(rates),
        usage(status, rates)
    ) + &format!("  handshake {}  login {}", times(&rates.handshake), times(&rates.login))
}

fn times(histogram: &figures::Histogram) -> String {
    latencies(histogram, &[0.5, 0.99])
}

fn connections(status: &Status, rates: &Rates) -> [String; 4] {
    [
        format!("{} connections", status.totals.connections_active),
        format!("{:.1} accepted/s", rates.connections),
        format!("{:.1} logins/s", rates.logins),
        format!("{:.1} failures/s", rates.failures),
    ]
}

fn bytes(rates: &Rates) -> String {
    format!("{}/s in  {}/s out", amount(rates.bytes_in), amount(rates.bytes_out))
}

fn usage(status: &Status, rates: &Rates) -> String {
    let memory = status.processes.iter().map(|one| one.memory_bytes as f64).sum();
    format!("CPU {:.0} %  memory {}", rates.cpu_in_all(), amount(memory))
}

/// The lines for a window of so many columns and rows. The busiest processes are shown where there is no room
/// for all.
fn frame(look: &Look, (_, rows): (usize, usize)) -> Vec<String> {
    let mut lines = vec!["tidegate ctl top: q ends it".to_owned()];
    if let Some(why) = &look.none {
        lines.extend(why.lines().map(str::to_owned));
    }
    // What stands above the processes is the same for each; they share what is left.
    let fixed: usize = look.views.iter().map(|view| head(view).len() + 2).sum();
    let room = rows.saturating_sub(lines.len() + fixed) / look.views.len().max(1);
    for view in &look.views {
        lines.push(String::new());
        lines.extend(head(view));
        if let View::Seen(status, rates) = view {
            lines.extend(processes(&status.processes, rates.as_deref(), room));
        }
    }
    lines
}

/// All about one gateway but its processes.
fn head(view: &View) -> Vec<String> {
    let (status, rates) = match view {
        View::Unseen(why) => return vec![why.clone()],
        View::Seen(status, None) => return vec![title(status), "  looking ...".to_owned()],
        View::Seen(status, Some(rates)) => (status, rates),
    };
    let totals = &status.totals;
    let sessions =
        format!("{} sessions, {} forwards", totals.sessions_active, totals.forwards_active);
    vec![
        title(status),
        format!("  {}", connections(status, rates).join("   ")),
        format!("  {:.1} refused/s   {sessions}   {}", rates.refused, usage(status, rates)),
        format!("  {}", bytes(rates).replace("  ", "   ")),
        format!("  handshake {}   login {}", times(&rates.handshake), times(&rates.login)),
    ]
}

/// A table of at most so many lines under its header.
fn processes(all: &[Process], rates: Option<&Rates>, room: usize) -> Vec<String> {
    let cpu = |one: &Process| {
        let percent = rates.and_then(|rates| rates.cpu_percent.get(&one.pid));
        percent.copied()
    };
    let mut sorted: Vec<&Process> = all.iter().collect();
    sorted.sort_by(|a, b| cpu(b).unwrap_or(0.0).total_cmp(&cpu(a).unwrap_or(0.0)));
    let left_out = sorted.len().saturating_sub(room);
    // The line that says so takes the place of one.
    let shown = if left_out > 0 { room.saturating_sub(1) } else { room };
    let header = ["process", "name", "pid", "CPU", "memory", "connections"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(sorted.iter().take(shown).map(|one| {
        vec![
            word(&one.role),
            word(&one.name),
            one.pid.to_string(),
            cpu(one).map_or_else(|| "-".to_owned(), |percent| format!("{percent:.0} %")),
            amount(one.memory_bytes as f64),
            one.connections.to_string(),
        ]
    }));
    let mut lines: Vec<String> =
        table(2, &rows).into_iter().map(|line| format!("  {line}")).collect();
    if left_out > 0 {
        lines.push(format!("  and {} more", sorted.len() - shown));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(processes: u32) -> Look {
        let process = |pid| Process { pid, cpu_seconds: f64::from(pid), ..Process::default() };
        let status =
            Status { processes: (1..=processes).map(process).collect(), ..Status::default() };
        let rates = Rates::between(&Status::default(), &status, 1.0);
        let view = View::Seen(Box::new(status), Some(Box::new(rates)));
        Look { views: vec![view], none: None, has_rates: true }
    }

    #[test]
    fn a_frame_fits_the_window_and_shows_the_busiest() {
        let whole = frame(&look(5), (80, 24));
        assert_eq!(whole.len(), 13);
        assert!(whole[8].contains("500 %") && whole[12].contains("100 %"), "{whole:#?}");
        let cut = frame(&look(50), (80, 16));
        assert_eq!(cut.len(), 16, "{cut:#?}");
        assert!(cut[8].contains("5000 %") && cut[15] == "  and 43 more", "{cut:#?}");
        assert!(frame(&look(50), (80, 5)).len() < 12, "the window cuts what is left");
        let gone = Look { views: Vec::new(), none: Some("none\nhere".to_owned()), has_rates: true };
        assert_eq!(frame(&gone, (80, 24)).len(), 3);
    }
}
