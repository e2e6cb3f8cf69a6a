//! `tidegate serve`: from the flags to a running gateway.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use tracing::info;

use super::effective::{self, Completeness};
use super::flags::{self, ServeFlags};
use super::{EXIT_FAILED, EXIT_USAGE, complain, print, version};
use crate::base::escape;
use crate::gateway::accounts;
use crate::gateway::cipher_speed;
use crate::gateway::config::{Config, Disk, Request, Surroundings};
use crate::gateway::host_keys::{self, HostKeys};
use crate::gateway::names;
use crate::gateway::serve::{self, Connections, KeyRules, Options, Reload};
use crate::gateway::upgrade::Program;
use crate::gateway::{chroot, pam, passwords};
use crate::observe::lines;
use crate::observe::log::{self, Levels, LogSetup, Outlet};

/// Runs `serve` with the words behind it.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let flags = match ServeFlags::parse(args) {
        Ok(flags) => flags,
        Err(why) => {
            complain(&format!("serve: {why}\n"));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if flags.help {
        return print(&flags::help());
    }
    if flags.version {
        return print(&version());
    }
    let config = match load(&flags) {
        Ok(config) => config,
        Err(code) => return code,
    };
    if flags.test || flags.dump {
        return check(&flags, &config);
    }
    match start(&flags, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            complain(&format!("{why:#}\n"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Reads the configuration; on errors tells all of them.
fn load(flags: &ServeFlags) -> Result<Config, ExitCode> {
    Config::load(&request(flags), &Disk).map_err(|errors| {
        let count = errors.errors.len();
        let plural = if count == 1 { "" } else { "s" };
        let _ = writeln!(io::stderr().lock(), "{errors}");
        complain(&format!("{count} error{plural} in the configuration; nothing was started\n"));
        ExitCode::from(EXIT_USAGE)
    })
}

fn request(flags: &ServeFlags) -> Request {
    Request {
        file: flags.file.clone(),
        options: flags.options.clone(),
        ports: flags.ports.clone(),
        surroundings: surroundings(flags.file.is_some()),
    }
}

fn surroundings(has_file: bool) -> Surroundings {
    let is_root = nix::unistd::geteuid().is_root();
    Surroundings {
        directory: std::env::current_dir().unwrap_or_default(),
        home: std::env::var_os("HOME").map(PathBuf::from),
        host_keys: host_keys::defaults(is_root, has_file, state_directory().as_deref()),
        pid_file: None,
        service: Some(names::service_port),
        device: Some(names::is_device),
    }
}

fn state_directory() -> Option<PathBuf> {
    host_keys::state_directory(nix::unistd::geteuid().is_root(), |name| std::env::var_os(name))
}

/// `-t` and `-T`.
fn check(flags: &ServeFlags, config: &Config) -> ExitCode {
    for warning in &config.warnings {
        complain(&format!("warning: {warning}\n"));
    }
    let state = state_directory();
    let checked =
        host_keys::check(&config.global, config.login.required_rsa_size, state.as_deref());
    match checked {
        Ok(warnings) => {
            warnings.iter().for_each(|warning| complain(&format!("warning: {warning}\n")));
        }
        Err(why) => {
            complain(&format!("{why}\n"));
            return ExitCode::from(EXIT_USAGE);
        }
    }
    if let Err(why) = passwords::check_files(config) {
        complain(&format!("{why}\n"));
        return ExitCode::from(EXIT_USAGE);
    }
    if let Err(why) = chroot::check_places(config) {
        complain(&format!("{why}\n"));
        return ExitCode::from(EXIT_USAGE);
    }
    if !flags.dump {
        if let Err(why) = serve::check_isolation(config) {
            complain(&format!("{why}\n"));
            return ExitCode::from(EXIT_USAGE);
        }
        match pam::check_ahead(config) {
            Ok(odd) => odd.iter().for_each(|odd| complain(&format!("warning: {odd}\n"))),
            Err(why) => {
                complain(&format!("{why}\n"));
                return ExitCode::from(EXIT_USAGE);
            }
        }
        return ExitCode::SUCCESS;
    }
    match effective::dump(&flags.connection, config, Completeness::Asked) {
        Ok(text) => {
            let ciphers = cipher_speed::summary(&config.global);
            print(&format!("# ciphers: {ciphers}\n{text}"))
        }
        Err(why) => {
            complain(&format!("serve: {why}\n"));
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// Starts the gateway and serves until it is told to end.
fn start(flags: &ServeFlags, config: Config) -> anyhow::Result<()> {
    let terminal = io::stderr().as_fd().try_clone_to_owned()?;
    if let Some(path) = &flags.log_file {
        log::redirect(path)?;
    }
    let (levels, format) = (Levels::of(&config), config.global.log_format);
    log::start(&LogSetup { levels, format, outlet: Outlet::StandardError })?;
    let options = Options {
        ready: announce,
        log: lines::write_all,
        syslog: None,
        connections: Connections::Listen,
        keys: KeyRules::All { state: state_directory() },
        detach: None,
        // Without a file there is nothing to read again: then a closed terminal ends it.
        reload: flags.file.is_some().then(|| reload(request(flags))),
        sessions_outlive: false,
        program: Program::running(),
    };
    let outcome = serve::run(config, &options);
    if let (Err(why), Some(_)) = (&outcome, &flags.log_file) {
        // Whoever started it should see it too, not only the log.
        let _ = writeln!(File::from(terminal), "tidegate: {why:#}");
    }
    outcome.map(|_| ())
}

fn reload(request: Request) -> Reload {
    Reload {
        read: Box::new(move || Ok(Config::load(&request, &Disk)?)),
        renewed: |config| log::set_levels(Levels::of(config)),
    }
}

/// What somebody who tries it out needs to know: where it listens, the key to expect, and the
/// lines to type. As events, so that a log of JSON lines stays one.
fn announce(addresses: &[SocketAddr], keys: &HostKeys) {
    for key in &keys.keys {
        let public = key.public();
        let state = match (key.is_new, key.algorithms.is_empty()) {
            (true, _) => ", made just now",
            (false, true) => ", for later",
            (false, false) => "",
        };
        let file = escape(key.path.as_os_str().as_encoded_bytes());
        let (kind, fingerprint) = (public.kind().family(), public.fingerprint());
        info!(kind, fingerprint, %file, "Host key {kind} {fingerprint} ({file}{state})");
    }
    for address in addresses {
        info!(%address, "Listening on {address}");
    }
    if let Some(address) = addresses.first() {
        let (host, port) = (reachable(*address), address.port());
        let user = accounts::by_uid(nix::unistd::geteuid().as_raw()).ok().flatten();
        let user = user.map_or("USER".to_owned(), |account| account.name);
        info!("Try: ssh -p {port} {user}@{host}");
        info!("Try: sftp -P {port} {user}@{host}");
    }
}

/// An address to connect to, given one that is listened on.
fn reachable(address: SocketAddr) -> String {
    match address.ip() {
        ip if ip.is_unspecified() => "localhost".to_owned(),
        ip => ip.to_string(),
    }
}
