use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::{fs, io};

use super::keywords::{KEYWORDS, Status};
use super::*;
use crate::client::{StrictHostKeys, UpdateHostKeys};
use crate::gateway::config::Disk;

/// Files that are not on a disk.
#[derive(Default)]
struct Shelf(BTreeMap<PathBuf, String>);

impl Source for Shelf {
    fn read(&self, path: &Path, _: u64) -> io::Result<Vec<u8>> {
        let text = self.0.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(text.clone().into_bytes())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let inside = self.0.keys().filter(|path| path.parent() == Some(directory));
        Ok(inside.filter_map(|path| path.file_name().map(OsString::from)).collect())
    }
}

fn request(host: &str) -> Request {
    Request {
        host: host.to_owned(),
        local_user: "ann".to_owned(),
        home: Some("/home/ann".into()),
        ..Request::default()
    }
}

fn with(text: &str, request: &Request) -> Result<Options, String> {
    let mut shelf = Shelf::default();
    shelf.0.insert("/home/ann/.ssh/config".into(), text.to_owned());
    shelf.0.insert("/home/ann/.ssh/conf.d/a".into(), "Port 2201\nHost b*\nUser b\n".to_owned());
    shelf
        .0
        .insert("/etc/ssh/ssh_config".into(), "Host *\n Port 2299\n HashKnownHosts yes\n".into());
    read(request, &shelf).map(|settled| settled.options).map_err(|why| why.to_string())
}

fn options(text: &str, host: &str) -> Options {
    with(text, &request(host)).expect("a configuration")
}

#[test]
fn the_first_value_counts_and_blocks_choose() {
    let text =
        "Host web !web9 db?\n Port 2200\nHost web*\n Port 1\n User root\nMatch all\n Port 2\n";
    let web = options(text, "web");
    assert_eq!((web.port, web.user.as_str()), (2200, "root"));
    assert_eq!(options(text, "db1").user, "ann");
    assert_eq!(options(text, "web9").port, 1);
    assert_eq!(options(text, "other").port, 2);
    assert!(web.hash_known_hosts, "the system's file comes last");
    let mut asked = request("web");
    asked.lines = vec!["Port=7".to_owned(), "port 8".to_owned()];
    asked.user = Some("bob".to_owned());
    let web = with(text, &asked).expect("a configuration");
    assert_eq!((web.port, web.user.as_str()), (7, "bob"), "the command line comes first");
}

#[test]
fn names_tokens_and_homes_are_expanded() {
    let text = "Host web\n HostName %h.example.org\n IdentityFile ~/keys/%r@%h:%p\n\
                Host *\n UserKnownHostsFile none\n ProxyCommand nc -x '%%' %h %p\n";
    let web = options(text, "web");
    assert_eq!(web.host_name, "web.example.org");
    assert_eq!(web.identity_files, [PathBuf::from("/home/ann/keys/ann@web.example.org:2299")]);
    assert!(web.user_known_hosts.is_empty());
    assert_eq!(web.proxy_command.as_deref(), Some("nc -x '%' web.example.org 2299"));
    let wrong = with("IdentityFile %z\n", &request("web")).expect_err("no token");
    assert!(wrong.contains("%z means nothing here"), "{wrong}");
}

/// Files that somebody chose are left alone unless he says otherwise.
#[test]
fn host_keys_are_updated_in_the_usual_file() {
    let update = |text: &str| options(text, "web").update_host_keys;
    assert_eq!(update(""), UpdateHostKeys::Yes);
    assert_eq!(update("UserKnownHostsFile ~/.ssh/known_hosts\n"), UpdateHostKeys::Yes);
    for files in ["/k", "~/.ssh/known_hosts /k", "none"] {
        assert_eq!(update(&format!("UserKnownHostsFile {files}\n")), UpdateHostKeys::No, "{files}");
    }
    assert_eq!(update("UserKnownHostsFile /k\nUpdateHostKeys yes\n"), UpdateHostKeys::Yes);
    assert_eq!(update("UpdateHostKeys ask\n"), UpdateHostKeys::Ask);
    assert_eq!(update("UpdateHostKeys no\n"), UpdateHostKeys::No);
}

#[test]
fn match_lines_ask_about_hosts_users_and_commands() {
    let text = "Host alias\n HostName real\nMatch host real\n Port 1\n\
                Match originalhost alias user root\n Tag x\nMatch exec \"test %h = real\"\n User u\n\
                Match !localuser ann\n StrictHostKeyChecking no\n\
                Match final host real\n IdentitiesOnly yes\n";
    let alias = options(text, "alias");
    assert_eq!((alias.port, alias.user.as_str()), (1, "u"));
    assert_eq!(alias.strict, StrictHostKeys::Ask);
    assert!(alias.identities_only, "the second pass");
    assert_eq!(options(text, "other").port, 2299);
    for bad in ["Match\n", "Match host\n", "Match moon full\n"] {
        assert!(with(bad, &request("web")).is_err(), "{bad}");
    }
}

#[test]
fn includes_count_where_they_stand() {
    let text = "Host web\n Include conf.d/*\nHost *\n Port 3\n";
    assert_eq!(options(text, "web").port, 2201);
    assert_eq!(options(text, "other").port, 3);
    assert_eq!(options("Include conf.d/*\n", "bob").user, "b");
    assert_eq!(options("Include nowhere\n", "bob").port, 2299);
    let circle = with("Include config\n", &request("web")).expect_err("a circle");
    assert!(circle.contains("include each other"), "{circle}");
}

#[test]
fn what_is_unknown_or_missing_is_told_with_its_place() {
    for (text, expected) in [
        ("Host *\nProt 22\n", "config:2: Prot: there is no such keyword"),
        ("Port x\n", "config:1: Port x: not a number"),
        ("Host other\n Port x\n", "config:2: Port x"),
        ("Tunnel yes\n", "config:1: Tunnel yes: networks are not tunnelled"),
        ("PermitLocalCommand yes\n", "write PermitLocalCommand no"),
        ("LocalForward 80\n", "is no [address:]port:host:port"),
        ("Ciphers 3des-cbc\n", "config:1: Ciphers"),
    ] {
        let wrong = with(text, &request("web")).expect_err(text);
        assert!(wrong.contains(expected), "{text}: {wrong}");
    }
    assert_eq!(options("IgnoreUnknown Mac*,Prot\nProt 22\nMacOsThing x\n", "web").port, 2299);
    // What Debian's own file says.
    let debian = "SendEnv LANG LC_*\nHashKnownHosts yes\nGSSAPIAuthentication yes\n";
    options(debian, "web");
}

#[test]
fn lists_of_algorithms_say_what_is_left_out_and_whether_their_order_is_meant() {
    for (list, chosen) in [("+ssh-rsa", false), ("-rsa*", false), ("^rsa*", true), ("rsa*", true)] {
        let options = options(&format!("HostKeyAlgorithms {list}\n"), "web");
        assert_eq!(options.host_keys_chosen, chosen, "{list}");
    }
    let mut shelf = Shelf::default();
    let text = "Host other\n MACs umac-64@openssh.com,hmac-sha2-256\nHost *\n Ciphers +3des-cbc\n";
    shelf.0.insert("/home/ann/.ssh/config".into(), text.to_owned());
    let settled = read(&request("web"), &shelf).expect("a configuration");
    let told: Vec<String> = settled.warnings.iter().map(ToString::to_string).collect();
    let expected = "config:4: Ciphers: 3des-cbc is left out: CBC ciphers are not offered";
    assert!(told.len() == 1 && told[0].ends_with(expected), "{told:?}");
    assert_eq!(settled.options.ciphers, Options::new("web", "ann", None).ciphers);
}

#[test]
fn hosts_on_the_way_have_options_of_their_own() {
    let text = "Host inner\n ProxyJump bob@one:7,two\nHost two\n Port 22\n User t\nHost *\n";
    let inner = options(text, "inner");
    let two = inner.via.expect("the last one");
    assert_eq!((two.host_name.as_str(), two.port, two.user.as_str()), ("two", 22, "t"));
    let one = two.via.expect("the first one");
    assert_eq!((one.host_name.as_str(), one.port, one.user.as_str()), ("one", 7, "bob"));
    assert!(one.via.is_none());
    assert!(options("ProxyJump gate\n", "gate").via.is_none(), "not over itself");
    let text = "ProxyJump gate\nForwardAgent /a\nForwardX11 yes\nRemoteForward 9 h:1\nLocalForward 8 h:1\n";
    let there = options(text, "web");
    assert!(there.forward_agent.is_some() && there.remote_forwards.len() == 1);
    let gate = there.via.expect("one on the way");
    assert!(gate.forward_agent.is_none() && gate.forward_x11.is_none());
    assert!(gate.remote_forwards.is_empty() && gate.local_forwards.is_empty());
    let circle = "Host a\n ProxyJump b\nHost b\n ProxyJump a\n";
    let wrong = with(circle, &request("a")).expect_err("a circle");
    assert!(wrong.contains("in a circle"), "{wrong}");
    assert!(options("ProxyJump none\nProxyJump x\n", "web").via.is_none());
}

#[test]
fn destinations() {
    let parse = |text| parse_destination(text, true).expect("a destination");
    let jump = |user: Option<&str>, host: &str, port| Jump {
        user: user.map(str::to_owned),
        host: host.to_owned(),
        port,
    };
    assert_eq!(parse("web"), jump(None, "web", None));
    assert_eq!(parse("ann@web:22"), jump(Some("ann"), "web", Some(22)));
    assert_eq!(parse("a@b@[::1]:22"), jump(Some("a@b"), "::1", Some(22)));
    assert_eq!(parse("ssh://ann@web:22/"), jump(Some("ann"), "web", Some(22)));
    assert_eq!(parse("::1"), jump(None, "::1", None));
    // SECURITY: nothing that a shell or a program would read as something else.
    for bad in ["", "-oProxyCommand=x", "a@-x", "-x@web", "a;b", "$(x)", "`x`@web", "web:0", "a b"]
    {
        assert!(parse_destination(bad, true).is_err(), "{bad}");
    }
}

#[test]
fn the_lists_of_the_documentation_are_those_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/client.md");
    let text = std::fs::read_to_string(path).expect("the page");
    let (_, lists) = text.split_once("<!-- lists -->").expect("the lists");
    let honoured: Vec<&str> = KEYWORDS
        .iter()
        .filter(|one| matches!(one.status, Status::Honoured(_) | Status::Structure))
        .map(|one| one.name)
        .collect();
    let mut expected =
        format!("\n\n### Honoured: {}\n\n{}.\n", honoured.len(), honoured.join(", "));
    let harmless: Vec<String> = KEYWORDS
        .iter()
        .filter_map(|one| match one.status {
            Status::Harmless(why) => Some(format!("- {}: {why}\n", one.name)),
            _ => None,
        })
        .collect();
    expected += &format!("\n### Without effect: {}\n\n{}", harmless.len(), harmless.concat());
    let absent: Vec<String> = KEYWORDS
        .iter()
        .filter_map(|one| match one.status {
            Status::Absent { harmless, reason } => {
                let but = match harmless {
                    [] => String::new(),
                    some => format!(" (not for `{}`)", some.join("`, `")),
                };
                Some(format!("- {}{but}: {reason}\n", one.name))
            }
            _ => None,
        })
        .collect();
    expected += &format!("\n### Refused: {}\n\n{}", absent.len(), absent.concat());
    assert!(lists == expected, "docs/client.md should end with:{expected}");
    let names: Vec<String> = KEYWORDS.iter().map(|one| one.name.to_ascii_lowercase()).collect();
    assert!(names.is_sorted(), "in the order of the manual");
}

/// Names become words of commands (`%h`, `%r`), which a shell reads.
#[test]
fn case_121_names_are_neither_flags_nor_commands() {
    let command = "ProxyCommand nc %h %r\n";
    for user in ["-x", "a;b", "a`id`", "a$(id)", "o'x", "a|b", "a -oX=y", "a\\", "a\nb", "\"a"] {
        let mut asked = request("web");
        asked.lines = vec![format!("User {user}")];
        let wrong = with(command, &asked).expect_err(user);
        assert!(wrong.contains("User"), "{user}: {wrong}");
        assert!(parse_destination(&format!("{user}@web"), false).is_err(), "{user}");
        assert!(with(&format!("User {user}\n"), &request("web")).is_err(), "{user} in a file");
    }
    for user in ["DOM\\ann", "ann%db", "ann+db", "ann@example.org", "a.b-c_d", "ann$"] {
        assert_eq!(options(&format!("User {user}\n"), "web").user, user);
    }
    for host in ["-oProxyCommand=x", "a;b", "a$(id)", "a`id`", "a b", "a'b", "a\nb", "a|b", ""] {
        assert!(parse_destination(host, false).is_err(), "{host}");
        assert!(with(&format!("ProxyJump {host}\n"), &request("web")).is_err(), "{host}");
    }
}

/// Stars that could be matched in endlessly many ways are matched in one.
#[test]
fn case_121_patterns_do_not_blow_up() {
    let pattern = "*a".repeat(60);
    let text = format!("Host {pattern}b\n Port 1\nHost *\n Port 2\n");
    assert_eq!(options(&text, &"a".repeat(250)).port, 2);
}

/// SECURITY case 121: what others could write does not say what is run here.
#[test]
fn case_121_files_that_others_may_write_to_are_refused() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join(".ssh");
    fs::create_dir(&folder).expect("a folder");
    let change = |name: &str, mode| {
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).expect("a mode");
    };
    for (name, text) in [("config", "Include more\n"), ("more", "Port 2200\n")] {
        fs::write(folder.join(name), text).expect("a file");
        change(name, 0o644);
    }
    let asked = Request { home: Some(home.path().into()), ..request("web") };
    let settled = read(&asked, &Disk).map_err(|why| why.to_string()).expect("a configuration");
    assert_eq!(settled.options.port, 2200);
    for name in ["config", "more"] {
        for mode in [0o664, 0o646] {
            change(name, mode);
            let Err(why) = read(&asked, &Disk) else { panic!("it is read") };
            let why = why.to_string();
            let path = folder.join(name).display().to_string();
            assert!(why.contains(&path) && why.contains("bad owner or permissions"), "{why}");
        }
        change(name, 0o600);
    }
    let chosen = Request { files: Files::Only(folder.join("config")), ..asked };
    change("config", 0o666);
    assert!(read(&chosen, &Disk).is_ok(), "a file that somebody chose, as in ssh");
}
