//! The configuration: sshd_config's language, read once into an immutable [`Config`].
//!
//! The text is read into drafts line by line ([`reader`]); the table in [`keywords`] knows every
//! keyword; what applies to one login is [`Config::effective`]. All errors of all files are
//! reported together, each with its file and line, what is legal, and what to do next.

mod algorithms;
mod certificates;
mod condition;
mod diagnostic;
mod dump;
mod forwarding;
mod front;
mod honour;
mod ip_qos;
mod isolation;
pub mod keywords;
mod lexer;
mod login;
mod pam;
mod patterns;
mod places;
mod programs;
mod reader;
mod recording;
mod roots;
mod settings;
mod source;
mod sources;
mod upstream;
mod values;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub use algorithms::{
    Listed, names_of, parse as parse_algorithms, parse_onto as parse_algorithms_onto,
};
pub use condition::{Condition, Who};
pub use diagnostic::{ConfigErrors, Diagnostic, Place, Surroundings, Wrong, did_you_mean};
pub use honour::{check_internal_sftp, expand_tokens, is_internal_sftp};
pub use ip_qos::IpQos;
pub use lexer::{Unclosed, quote, split_keyword, words};
pub use patterns::{HostList, NameList, UserPattern, Verdict};
pub use settings::{
    AddressFamily, AuditLog, Banner, ChannelTimeout, ControlAt, Defaults, DriverChoice, Effective,
    Endpoint, Facility, Global, Isolation, Listen, ListenError, ListenHost, LogFormat, LogLevel,
    MaxStartups, Overflow, Penalties, Proxies, RootLogin, ScpServer, SourceBlocks, Subsystem,
};
pub use source::{Disk, NoFiles, Source, glob, is_pattern};
pub use values::{Values, duration, is_none, number, size};

use super::passwords;
use crate::crypto::SignatureAlgorithm;
use crate::limits::BANNER_BYTES_MAX;
use places::Places;
use reader::{Block, Reading};

/// Where the configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The main file; none: defaults for trying the server out.
    pub file: Option<PathBuf>,
    /// `Keyword=Value` of the command line; they come before the file, so they win.
    pub options: Vec<String>,
    /// `-p`: instead of every Port line.
    pub ports: Vec<u16>,
    pub surroundings: Surroundings,
}

/// A configuration without errors. Never changes; a reload makes a new one.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub global: Global,
    /// What holds for a login that no Match block applies to.
    pub login: Effective,
    /// Things to tell the administrator once.
    pub warnings: Vec<Diagnostic>,
    /// The files that were read.
    pub files: Vec<PathBuf>,
    blocks: Vec<Block>,
    places: Places,
}

impl Config {
    /// Reads the files of a request from `source`.
    pub fn load(request: &Request, source: &dyn Source) -> Result<Config, ConfigErrors> {
        let directory = request.file.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        let directory = request.surroundings.directory.join(directory);
        let mut reading = Reading::new(source, &request.surroundings, directory);
        for option in &request.options {
            reading.option(option);
        }
        if let Some(file) = &request.file {
            reading.file(file);
        }
        let defaults = if request.file.is_some() { Defaults::File } else { Defaults::NoFile };
        Config::finish(reading, defaults, &request.ports)
    }

    /// What holds for `who`: the first value of the Match blocks that apply, else of the rest of
    /// the file, else the default.
    pub fn effective(&self, who: &Who<'_>) -> Effective {
        if self.blocks.is_empty() {
            return self.login.clone();
        }
        let mut draft = settings::EffectiveDraft::default();
        let mut applied: Vec<bool> = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let outer = block.within.is_none_or(|outer| applied.get(outer) == Some(&true));
            let applies = outer && block.condition.applies(who);
            applied.push(applies);
            if applies {
                draft.absorb(&block.draft);
            }
        }
        draft.over(&self.login)
    }

    /// The first thing that some Match line asks about and `who` does not tell.
    pub fn lacks(&self, who: &Who<'_>) -> Option<&'static str> {
        self.blocks.iter().find_map(|block| block.condition.lacks(who))
    }

    /// The most talkative of the log levels that Match blocks set; `None` where none does.
    pub fn own_log_level(&self) -> Option<LogLevel> {
        self.blocks.iter().filter_map(|block| block.draft.log_level).max()
    }

    /// Whether the banner, the tries, the methods, a log level or a refusal depend on more than addresses: then
    /// nothing of a login can be answered before its user is known.
    pub fn asks_users(&self) -> bool {
        let anybody = self.global.use_dns || self.login.refuse_connection;
        anybody
            || self.blocks.iter().any(|block| {
                let draft = &block.draft;
                let methods = draft.authentication_methods.is_some()
                    || draft.pubkey_authentication.is_some()
                    || draft.password_authentication.is_some()
                    || draft.kbd_interactive_authentication.is_some()
                    || draft.password_file.is_some()
                    || draft.totp_file.is_some();
                let greets = draft.banner.is_some() || draft.max_auth_tries.is_some() || methods;
                let always = draft.refuse_connection == Some(true) || draft.log_level.is_some();
                always || greets && self.is_about_users(block)
            })
    }

    /// Whether it matters how a connection is routed.
    pub fn asks_routing(&self) -> bool {
        self.blocks.iter().any(|block| block.condition.is_about_routing())
            || self.programs().flatten().any(|word| word.contains("%D"))
    }

    /// Whether logins with keys may wait for a program.
    pub fn asks_programs(&self) -> bool {
        self.programs().any(|words| !words.is_empty())
    }

    /// The programs that know keys and principals, with their arguments.
    fn programs(&self) -> impl Iterator<Item = &Vec<String>> {
        let blocks = self.blocks.iter().map(|block| &block.draft);
        let keys = blocks.clone().filter_map(|draft| draft.authorized_keys_command.as_ref());
        let names = blocks.filter_map(|draft| draft.authorized_principals_command.as_ref());
        let login =
            [&self.login.authorized_keys_command, &self.login.authorized_principals_command];
        keys.chain(names).chain(login)
    }

    /// The block, or one whose Include brought it in, asks for more than addresses.
    fn is_about_users(&self, block: &Block) -> bool {
        let outer = block.within.and_then(|outer| self.blocks.get(outer));
        !block.condition.is_about_addresses()
            || outer.is_some_and(|outer| self.is_about_users(outer))
    }

    /// Whether login names may name a target besides their user.
    pub fn takes_targets(&self) -> bool {
        let some = |targets: &Option<Vec<String>>| targets.as_ref().is_some_and(|t| !t.is_empty());
        !self.login.upstream_targets.is_empty()
            || self.blocks.iter().any(|block| some(&block.draft.upstream_targets))
    }

    /// Whether some login may go on at a host behind the gateway.
    pub fn goes_on_elsewhere(&self) -> bool {
        let some = |words: &Option<Vec<String>>| words.as_ref().is_some_and(|w| !w.is_empty());
        let login = &self.login;
        self.takes_targets()
            || !login.upstream.is_empty()
            || !login.upstream_command.is_empty()
            || self.blocks.iter().any(|block| {
                let hosts = block.draft.upstream.as_ref().is_some_and(|hosts| !hosts.is_empty());
                hosts || some(&block.draft.upstream_command)
            })
    }

    /// Whether some login may go on over another's connection to a host behind the gateway.
    pub fn shares_upstreams(&self) -> bool {
        let kept = |block: &Block| block.draft.upstream_share.flatten().is_some();
        self.login.upstream_share.is_some() || self.blocks.iter().any(kept)
    }

    /// Each connection has processes of its own.
    pub fn separates_connections(&self) -> bool {
        self.global.isolation == Isolation::PerConnection
    }

    /// The files of keys that open hosts behind the gateway, each once; with `true` those that certify.
    pub fn upstream_keys(&self) -> BTreeSet<(bool, &Path)> {
        let drafts = self.blocks.iter().map(|block| &block.draft);
        let keys = drafts.clone().filter_map(|draft| draft.upstream_identity.as_ref());
        let keys = keys.chain([&self.login.upstream_identity]).flatten();
        let authorities = drafts.filter_map(|draft| draft.upstream_authority.as_ref());
        let authorities = authorities.chain([&self.login.upstream_authority]).flatten();
        let authorities = authorities.map(|path| (true, path.as_path()));
        keys.map(|path| (false, path.as_path())).chain(authorities).collect()
    }

    /// The files of secrets, under the keywords that name them.
    pub fn secret_files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let blocks = self.blocks.iter().map(|block| &block.draft);
        let passwords = blocks.clone().filter_map(|draft| draft.password_file.as_ref());
        let passwords = passwords.chain([&self.login.password_file]).flatten();
        let codes = blocks.filter_map(|draft| draft.totp_file.as_ref());
        let codes = codes.chain([&self.login.totp_file]).flatten();
        let passwords = passwords.map(|path| (passwords::PASSWORDS, &**path));
        passwords.chain(codes.map(|path| (passwords::CODES, &**path)))
    }

    /// Some login has only a part of the file system.
    pub fn confines(&self) -> bool {
        let blocks = self.blocks.iter().filter_map(|block| block.draft.chroot_directory.as_ref());
        let chroots = blocks.chain([&self.login.chroot_directory]).any(Option::is_some);
        chroots || self.login.accounts_file.is_some()
    }

    /// The line that says what this keyword is for `who`; `None` where none does.
    pub fn place_of(&self, keyword: &str, who: &Who<'_>) -> Option<&Place> {
        let mut applied: Vec<bool> = Vec::with_capacity(self.blocks.len());
        for (number, block) in self.blocks.iter().enumerate() {
            let outer = block.within.is_none_or(|outer| applied.get(outer) == Some(&true));
            let applies = outer && block.condition.applies(who);
            applied.push(applies);
            let place = self.places.of(Some(number), keyword);
            if applies && place.is_some() {
                return place;
            }
        }
        self.places.of(None, keyword)
    }

    /// The PAM services that logins may be asked at, each with the line that names it first.
    pub fn pam_services(&self) -> Vec<(&str, Option<&Place>)> {
        let place = |block| self.places.of(block, "PAMServiceName");
        let mut services = vec![(&*self.login.pam_service, place(None))];
        for (number, block) in self.blocks.iter().enumerate() {
            let Some(service) = &block.draft.pam_service else { continue };
            if services.iter().all(|(known, _)| known != service) {
                services.push((service, place(Some(number))));
            }
        }
        services
    }

    pub fn has_match_blocks(&self) -> bool {
        !self.blocks.is_empty()
    }

    /// Every algorithm that some login may use: what is announced before the user is known.
    pub fn pubkey_algorithms_offered(&self) -> Vec<SignatureAlgorithm> {
        let mut offered = Vec::new();
        let blocks = self.blocks.iter().filter_map(|block| block.draft.pubkey_algorithms.as_ref());
        for algorithm in self.login.pubkey_algorithms.iter().chain(blocks.flatten()) {
            if !offered.contains(&algorithm.signature) {
                offered.push(algorithm.signature);
            }
        }
        offered
    }

    /// The settings as lines of a configuration file that means the same.
    pub fn dump(&self, login: &Effective) -> String {
        dump::dump(&dump::View { global: &self.global, login })
    }

    fn finish(
        mut reading: Reading<'_>,
        defaults: Defaults,
        ports: &[u16],
    ) -> Result<Config, ConfigErrors> {
        if !ports.is_empty() {
            reading.global.ports = ports.to_vec();
        }
        if defaults == Defaults::NoFile {
            // Whoever tries it out on one machine is every source there is.
            reading.global.penalties.enabled.get_or_insert(false);
        }
        let mut global = reading.global.over(&Global::default());
        complete(&mut global, defaults, reading.surroundings);
        settle_steering(&mut global, &mut reading);
        if reading.global.pid_file.is_none() {
            global.pid_file.clone_from(&reading.surroundings.pid_file);
        }
        check_families(&mut reading, &global);
        expand_ports(&mut global);
        pam::settle(&mut reading);
        let mut login = reading.login.over(&Effective::default());
        if defaults == Defaults::NoFile && !login.subsystems.iter().any(|s| s.name == "sftp") {
            let command = "internal-sftp".to_owned();
            login.subsystems.push(Subsystem { name: "sftp".to_owned(), command });
        }
        read_banners(&mut login, &mut reading);
        programs::check_users(&mut reading, &login);
        login::check_methods(&mut reading, &login);
        if !reading.errors.is_empty() {
            return Err(ConfigErrors { errors: reading.errors });
        }
        Ok(Config {
            global,
            login,
            warnings: reading.warnings,
            files: reading.files,
            blocks: reading.blocks,
            places: reading.places,
        })
    }
}

/// Reads text as one configuration file; there are no other files. Never panics, whatever the
/// text: fuzzers start here.
pub fn parse(text: &[u8]) -> Result<Config, ConfigErrors> {
    let surroundings = Surroundings::default();
    let mut reading = Reading::new(&NoFiles, &surroundings, PathBuf::new());
    reading.text(text, "config", 0);
    Config::finish(reading, Defaults::File, &[])
}

/// The port of sshd, and ours when nobody asked for that one.
const PORT: u16 = 22;
const PORT_WITHOUT_FILE: u16 = 2222;

fn complete(global: &mut Global, defaults: Defaults, surroundings: &Surroundings) {
    let without_file = defaults == Defaults::NoFile;
    if global.ports.is_empty() {
        global.ports.push(if without_file { PORT_WITHOUT_FILE } else { PORT });
    }
    if global.listen.is_empty() {
        let loopback = match global.address_family {
            AddressFamily::Inet6 => std::net::Ipv6Addr::LOCALHOST.into(),
            AddressFamily::Any | AddressFamily::Inet => std::net::Ipv4Addr::LOCALHOST.into(),
        };
        let addresses =
            if without_file { vec![loopback] } else { global.address_family.wildcards() };
        let listen =
            |address, port| Listen { host: ListenHost::Address(address), port, rdomain: None };
        // In sshd's order: every address of the first port, then those of the next.
        let of_port = |port| addresses.iter().map(move |address| listen(*address, port));
        global.listen = global.ports.iter().flat_map(|port| of_port(Some(*port))).collect();
    }
    if !global.penalties.enabled {
        global.penalties = Penalties { enabled: false, ..Penalties::default() };
    }
    global.penalties.overflow6.get_or_insert(global.penalties.overflow);
    if global.host_keys.is_empty() {
        global.host_keys.clone_from(&surroundings.host_keys);
    }
}

/// Whoever chose an order of ciphers, or left some out, means it.
fn settle_steering(global: &mut Global, reading: &mut Reading<'_>) {
    if global.ciphers == Global::default().ciphers {
        return;
    }
    global.cipher_steering = false;
    if reading.global.cipher_steering == Some(true) {
        let file =
            reading.files.first().map_or("command line".into(), |file| file.to_string_lossy());
        let place = Place { file: file.as_ref().into(), line: 0 };
        let why = "not in effect, Ciphers chooses; without that line it would be";
        reading.warning(&place, "TidegateCipherSteering", why.to_owned());
    }
}

/// An address of the wrong family cannot be listened on; sshd says so only when it starts.
fn check_families(reading: &mut Reading<'_>, global: &Global) {
    let wrong_ones = reading
        .listen_places
        .iter()
        .zip(&reading.global.listen)
        .filter_map(|(place, listen)| match listen.host {
            ListenHost::Address(address) if !global.address_family.takes(address) => {
                Some((place.clone(), format!("ListenAddress {listen}")))
            }
            _ => None,
        })
        .collect::<Vec<_>>();
    for (place, subject) in wrong_ones {
        let wrong = Wrong::new("", "AddressFamily does not allow an address of this family");
        reading.error(&place, &subject, wrong.help("write AddressFamily any"), None);
    }
}

/// Each address without a port is listened on at every Port.
fn expand_ports(global: &mut Global) {
    let mut expanded: Vec<Listen> = Vec::new();
    for listen in &global.listen {
        let ports = match listen.port {
            Some(port) => vec![port],
            None => global.ports.clone(),
        };
        for port in ports {
            let one = Listen { port: Some(port), ..listen.clone() };
            if !expanded.contains(&one) {
                expanded.push(one);
            }
        }
    }
    global.listen = expanded;
}

/// A banner that cannot be read is no reason to refuse logins, but one to speak up.
fn read_banners(login: &mut Effective, reading: &mut Reading<'_>) {
    let (source, mut told) = (reading.source, Vec::new());
    let of_blocks = reading.blocks.iter_mut().filter_map(|block| block.draft.banner.as_mut());
    for banner in of_blocks.flatten().chain(login.banner.as_mut()) {
        match source.read(&banner.path, u64::from(BANNER_BYTES_MAX)) {
            Ok(bytes) => banner.text = String::from_utf8_lossy(&bytes).into(),
            Err(why) => told.push((banner.path.to_string_lossy().into(), why)),
        }
    }
    for (file, why) in told {
        let place = Place { file, line: 0 };
        reading.warning(&place, "Banner", format!("cannot be read: {why}; none is shown"));
    }
}
