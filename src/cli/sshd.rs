//! `tidegate sshd`, and whatever calls this program `sshd`: sshd's command line, defaults and exit
//! statuses in front of the same gateway.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sys::signal::Signal;
use nix::sys::stat::fstat;
use tracing::info;

use super::effective::{self, Completeness};
use super::sshd_flags::{self, Action, SshdFlags};
use super::{EXIT_FAILED, EXIT_USAGE, complain, print};
use crate::base::escape;
use crate::gateway::config::{
    Config, ConfigErrors, Diagnostic, Disk, Facility, LogLevel, Request, Surroundings,
};
use crate::gateway::daemon::{self, Detach};
use crate::gateway::host_keys::{self, HostKeys};
use crate::gateway::names;
use crate::gateway::serve::{self, Connections, Ending, KeyRules, Options, Reload};
use crate::gateway::syslog::{self, Severity, Syslog};
use crate::gateway::upgrade::Program;
use crate::gateway::{chroot, pam, passwords};
use crate::observe::lines;
use crate::observe::log::{self, Levels, LogSetup, Outlet};

/// Where Debian's sshd leaves its number; /var/run is a link to /run.
const PID_FILE: &str = "/run/sshd.pid";

/// Runs `sshd` with the words behind it.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    daemon::close_inherited();
    let flags = match SshdFlags::parse(args) {
        Ok(flags) => flags,
        Err(refused) => {
            complain(&format!("sshd: {}\n", refused.why));
            return ExitCode::from(refused.status);
        }
    };
    match flags.action {
        Action::Help => return print(&sshd_flags::help()),
        Action::Version => {
            let _ = writeln!(io::stderr().lock(), "Tidegate_{}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Action::Serve | Action::Check | Action::CheckAndDump | Action::Dump => {}
    }
    // An opened log is where all of a check goes; a server says on its terminal why it does not start.
    if flags.action != Action::Serve
        && let Some(path) = &flags.log_file
        && let Err(why) = log::redirect(path)
    {
        complain(&format!("-E {}: {why}\n", path.display()));
        return ExitCode::from(EXIT_USAGE);
    }
    let request = request(&flags);
    let mut config = match Config::load(&request, &Disk) {
        Ok(config) => config,
        Err(errors) => {
            flags.tell(&format!("{errors}\n"));
            return ExitCode::from(status(&errors, &flags));
        }
    };
    if flags.action != Action::Serve {
        return check(&flags, &config);
    }
    adapt(&flags, &mut config);
    match start(&flags, config, request) {
        Ok(ending) => ending_status(ending),
        Err(code) => code,
    }
}

/// Only SIGTERM asks for an end that is a success; a service manager looks at this.
fn ending_status(ending: Ending) -> ExitCode {
    match ending {
        Ending::Over | Ending::Signal(Signal::SIGTERM) => ExitCode::SUCCESS,
        Ending::Signal(_) => ExitCode::from(EXIT_FAILED),
        Ending::Status(status) => ExitCode::from(status),
    }
}

impl SshdFlags {
    /// sshd's own rule: debugging goes to the terminal, unless inetd is there.
    const fn logs_to_stderr(&self) -> bool {
        self.stderr || self.debug > 0 && !self.inetd
    }

    /// Says something before the log is there. Under inetd, standard error may be the connection.
    fn tell(&self, text: &str) {
        if self.quiet {
            return;
        }
        if self.inetd && !self.logs_to_stderr() {
            let syslog = Syslog::new(syslog::GATEWAY, Facility::Auth);
            text.lines().for_each(|line| syslog.send(Severity::Error, line.trim().as_bytes()));
            if is_same_file(io::stdin().as_fd(), io::stderr().as_fd()) {
                return;
            }
        }
        complain(text);
    }
}

fn is_same_file(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    match (fstat(one), fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

/// Relative paths keep their meaning when the configuration is read again from another directory.
fn request(flags: &SshdFlags) -> Request {
    let directory = std::env::current_dir().unwrap_or_default();
    Request {
        file: Some(flags.file.clone()),
        options: flags.options.clone(),
        ports: flags.ports.clone(),
        surroundings: Surroundings {
            directory,
            home: std::env::var_os("HOME").map(PathBuf::from),
            host_keys: host_keys::of_sshd(),
            pid_file: Some(PID_FILE.into()),
            service: Some(names::service_port),
            device: Some(names::is_device),
        },
    }
}

/// sshd ends with 1 when a file, a keyword or the value of an option does not exist, with 255 when a value is wrong.
fn status(errors: &ConfigErrors, flags: &SshdFlags) -> u8 {
    let file = flags.file.to_string_lossy();
    let is_absent = |error: &Diagnostic| {
        let of_file = *error.place.file == *file && error.place.line == 0;
        let unknown = ["no such keyword", "a value is missing"];
        let of_option = &*error.place.file == "command line"
            && unknown.iter().any(|problem| error.problem.contains(problem));
        of_file || of_option
    };
    if errors.errors.iter().any(is_absent) { EXIT_USAGE } else { EXIT_FAILED }
}

/// `-t`, `-T` and `-G`.
fn check(flags: &SshdFlags, config: &Config) -> ExitCode {
    for warning in &config.warnings {
        flags.tell(&format!("warning: {warning}\n"));
    }
    if flags.action != Action::Dump {
        if let Err(why) = passwords::check_files(config) {
            flags.tell(&format!("{why}\n"));
            return ExitCode::from(EXIT_FAILED);
        }
        if let Err(why) = chroot::check_places(config) {
            flags.tell(&format!("{why}\n"));
            return ExitCode::from(EXIT_FAILED);
        }
        match serve::load_keys(config, &KeyRules::Any) {
            Ok(keys) => {
                keys.warnings
                    .iter()
                    .for_each(|warning| flags.tell(&format!("warning: {warning}\n")));
            }
            Err(why) => {
                flags.tell(&format!("no host key can be used: {why:#}\n"));
                return ExitCode::from(EXIT_USAGE);
            }
        }
    }
    if flags.action == Action::Check {
        if let Err(why) = serve::check_isolation(config) {
            flags.tell(&format!("{why}\n"));
            return ExitCode::from(EXIT_FAILED);
        }
        match pam::check_ahead(config) {
            Ok(odd) => odd.iter().for_each(|odd| flags.tell(&format!("warning: {odd}\n"))),
            Err(why) => {
                flags.tell(&format!("{why}\n"));
                return ExitCode::from(EXIT_FAILED);
            }
        }
        return ExitCode::SUCCESS;
    }
    match effective::dump(&flags.connection, config, Completeness::AsGiven) {
        Ok(text) => print(&text),
        Err(why) => {
            complain(&format!("sshd: {why}\n"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// What sshd does differently when it serves one connection.
fn adapt(flags: &SshdFlags, config: &mut Config) {
    if flags.debug > 0 || flags.inetd {
        config.global.pid_file = None;
    }
    if flags.debug > 0 {
        // Nobody is to be thrown out while he looks for what is wrong.
        config.global.login_grace = None;
    }
}

fn start(flags: &SshdFlags, config: Config, request: Request) -> Result<Ending, ExitCode> {
    let failed = |why: &dyn std::fmt::Display| {
        flags.tell(&format!("{why:#}\n"));
        ExitCode::from(EXIT_FAILED)
    };
    // sshd has its own status for this.
    let keys = serve::load_keys(&config, &KeyRules::Any).map_err(|why| {
        flags.tell(&format!("no host key can be used: {why:#}\n"));
        ExitCode::from(EXIT_USAGE)
    })?;
    let to_syslog = !flags.logs_to_stderr();
    if to_syslog && !flags.quiet && !flags.inetd && config.login.log_level != LogLevel::Quiet {
        // Whoever starts us should see them, not only the log.
        let warnings = config.warnings.iter().map(ToString::to_string);
        for warning in warnings.chain(keys.warnings) {
            complain(&format!("warning: {warning}\n"));
        }
    }
    let terminal = io::stderr().as_fd().try_clone_to_owned().map_err(|why| failed(&why))?;
    if let Some(path) = &flags.log_file {
        log::redirect(path).map_err(|why| {
            flags.tell(&format!("-E {}: {why}\n", path.display()));
            ExitCode::from(EXIT_USAGE)
        })?;
    }
    let program = Program::running();
    // The configuration's paths are absolute by now, and no file system is to be kept in use.
    nix::unistd::chdir("/").map_err(|why| failed(&why))?;
    let facility = to_syslog.then_some(config.global.syslog_facility);
    let setup = LogSetup {
        levels: Levels::of(&config),
        format: config.global.log_format,
        outlet: facility.map_or(Outlet::StandardError, |facility| {
            Outlet::Syslog(Syslog::new(syslog::GATEWAY, facility))
        }),
    };
    log::start(&setup).map_err(|why| failed(&why))?;
    let mut options = options(flags, facility, request, program);
    if let Some(detach) = &mut options.detach {
        detach.forget = Some(terminal.as_raw_fd());
    }
    serve::run(config, &options).map_err(|why| {
        if flags.log_file.is_some() {
            let _ = writeln!(File::from(terminal), "tidegate: {why:#}");
        }
        failed(&format!("{why:#}"))
    })
}

fn options(
    flags: &SshdFlags,
    syslog: Option<Facility>,
    request: Request,
    program: Program,
) -> Options {
    let one = flags.debug > 0;
    let connections = match (flags.inetd, one) {
        (true, _) => Connections::Given,
        (false, true) => Connections::First,
        (false, false) => Connections::Listen,
    };
    let detach = !(flags.foreground || one || flags.inetd);
    let listens = connections == Connections::Listen;
    Options {
        ready: if listens || one { announce } else { |_, _| () },
        log: lines::write_all,
        syslog,
        connections,
        keys: KeyRules::Any,
        detach: detach.then_some(Detach { keep_stderr: flags.log_file.is_some(), forget: None }),
        reload: listens.then(|| reload(request)),
        sessions_outlive: listens,
        program,
    }
}

/// Reads the same file with the same options, wherever the process stands by then.
fn reload(request: Request) -> Reload {
    let directory = &request.surroundings.directory;
    let file = request.file.as_deref().map(|file: &Path| directory.join(file));
    let request = Request { file, ..request };
    Reload {
        read: Box::new(move || Ok(Config::load(&request, &Disk)?)),
        renewed: |config| log::set_levels(Levels::of(config)),
    }
}

/// In sshd's words, which other programs look for.
fn announce(addresses: &[SocketAddr], keys: &HostKeys) {
    for key in &keys.keys {
        let public = key.public();
        let (kind, fingerprint) = (public.kind().family(), public.fingerprint());
        let file = escape(key.path.as_os_str().as_encoded_bytes());
        let next = if key.algorithms.is_empty() { ", for later" } else { "" };
        info!(kind, fingerprint, %file, "Host key {kind} {fingerprint} ({file}{next})");
    }
    for address in addresses {
        let (ip, port) = (address.ip(), address.port());
        info!(%address, "Server listening on {ip} port {port}.");
    }
}
