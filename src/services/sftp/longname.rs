use nix::libc;
use nix::sys::stat::FileStat;
use nix::unistd::{Gid, Group, Uid, User};

/// Users, and groups, whose names one listing remembers; further ones are looked up each time.
const CACHED_MAX: usize = 64;
/// Longer account names are cut in a listing, so that an entry's size has a bound.
const ACCOUNT_BYTES_MAX: usize = 64;
/// `ls` shows the time of day for files younger than half a year, the year for others.
const RECENT_SECONDS: i64 = 365 * 24 * 60 * 60 / 2;
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The most a long name takes beside the file's own name: mode, links, two accounts, size, date.
pub const LONG_NAME_EXTRA_BYTES_MAX: usize =
    11 + 1 + 20 + 1 + ACCOUNT_BYTES_MAX + 1 + ACCOUNT_BYTES_MAX + 1 + 20 + 1 + 24 + 1;

/// Names of the accounts met in one listing.
#[derive(Debug, Default)]
pub struct AccountNames {
    users: Vec<(u32, Box<str>)>,
    groups: Vec<(u32, Box<str>)>,
    /// Numbers are shown: the system's accounts are not known here.
    pub nameless: bool,
}

impl AccountNames {
    /// The user's name, or the number when it has none.
    fn user(&mut self, id: u32) -> &str {
        let known = !self.nameless;
        cached(&mut self.users, id, |id| {
            let user = known.then(|| User::from_uid(Uid::from_raw(id)).ok().flatten());
            user.flatten().map(|user| user.name)
        })
    }

    fn group(&mut self, id: u32) -> &str {
        let known = !self.nameless;
        cached(&mut self.groups, id, |id| {
            let group = known.then(|| Group::from_gid(Gid::from_raw(id)).ok().flatten());
            group.flatten().map(|group| group.name)
        })
    }
}

/// Appends the line that `ls -l` shows for a file, as OpenSSH's server writes it and its clients
/// print it. `now` is in seconds since 1970.
pub fn long_name(
    out: &mut Vec<u8>,
    name: &[u8],
    stat: &FileStat,
    accounts: &mut AccountNames,
    now: i64,
) {
    out.extend_from_slice(&mode_letters(stat.st_mode));
    push(out, format_args!("  {:>3} ", stat.st_nlink));
    push(out, format_args!("{:<8} ", accounts.user(stat.st_uid)));
    push(out, format_args!("{:<8} {:>8} ", accounts.group(stat.st_gid), stat.st_size as u64));
    push_time(out, stat.st_mtime, now);
    out.push(b' ');
    out.extend_from_slice(name);
}

fn cached(
    known: &mut Vec<(u32, Box<str>)>,
    id: u32,
    look_up: impl Fn(u32) -> Option<String>,
) -> &str {
    let at = match known.iter().position(|(cached, _)| *cached == id) {
        Some(at) => at,
        None => {
            let mut name = look_up(id).unwrap_or_else(|| id.to_string());
            let cut = (0..=ACCOUNT_BYTES_MAX).rev().find(|at| name.is_char_boundary(*at));
            name.truncate(cut.unwrap_or(0));
            if known.len() >= CACHED_MAX {
                known.pop();
            }
            known.push((id, name.into_boxed_str()));
            known.len() - 1
        }
    };
    known.get(at).map_or("", |(_, name)| name)
}

fn push(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    use std::io::Write;
    // Writing to a Vec does not fail.
    let _ = out.write_fmt(text);
}

fn push_time(out: &mut Vec<u8>, time: i64, now: i64) {
    let Some(local) = local_time(time) else { return };
    let month = MONTHS.get(local.tm_mon as usize).copied().unwrap_or("???");
    push(out, format_args!("{month} {:>2} ", local.tm_mday));
    if time > now - RECENT_SECONDS && time <= now {
        push(out, format_args!("{:02}:{:02}", local.tm_hour, local.tm_min));
    } else {
        push(out, format_args!(" {}", 1900 + i64::from(local.tm_year)));
    }
}

/// `20261129-02:32:13`, as OpenSSH's log of SFTP has times; empty for those whose year does not fit.
pub fn day_and_time(time: i64) -> String {
    local_time(time).map_or_else(String::new, |at| {
        let (year, month) = (1900 + i64::from(at.tm_year), at.tm_mon + 1);
        let (day, hour, minute, second) = (at.tm_mday, at.tm_hour, at.tm_min, at.tm_sec);
        format!("{year}{month:02}{day:02}-{hour:02}:{minute:02}:{second:02}")
    })
}

/// The server's own time zone, as OpenSSH's; `None` for times whose year does not fit.
fn local_time(time: i64) -> Option<libc::tm> {
    let mut local = std::mem::MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both pointers are valid for the call; localtime_r is thread-safe, and fills `local`
    // whenever it does not return null.
    let filled = unsafe { libc::localtime_r(&time, local.as_mut_ptr()) };
    // SAFETY: see above; null was ruled out.
    (!filled.is_null()).then(|| unsafe { local.assume_init() })
}

/// The ten letters of `ls -l`.
fn mode_letters(mode: u32) -> [u8; 10] {
    let kind = match mode & libc::S_IFMT {
        libc::S_IFDIR => b'd',
        libc::S_IFCHR => b'c',
        libc::S_IFBLK => b'b',
        libc::S_IFREG => b'-',
        libc::S_IFLNK => b'l',
        libc::S_IFSOCK => b's',
        libc::S_IFIFO => b'p',
        _ => b'?',
    };
    let bit = |mask: u32, letter: u8| if mode & mask != 0 { letter } else { b'-' };
    // The execute place also shows a special bit: small letter when both are set.
    let execute = |mask: u32, special: u32, letter: u8| match (mode & mask, mode & special) {
        (0, 0) => b'-',
        (_, 0) => b'x',
        (0, _) => letter.to_ascii_uppercase(),
        _ => letter,
    };
    [
        kind,
        bit(libc::S_IRUSR, b'r'),
        bit(libc::S_IWUSR, b'w'),
        execute(libc::S_IXUSR, libc::S_ISUID, b's'),
        bit(libc::S_IRGRP, b'r'),
        bit(libc::S_IWGRP, b'w'),
        execute(libc::S_IXGRP, libc::S_ISGID, b's'),
        bit(libc::S_IROTH, b'r'),
        bit(libc::S_IWOTH, b'w'),
        execute(libc::S_IXOTH, libc::S_ISVTX, b't'),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters(mode: u32) -> String {
        String::from_utf8(mode_letters(mode).to_vec()).expect("ASCII")
    }

    #[test]
    fn modes_read_as_ls_writes_them() {
        let table = [
            (0o100644, "-rw-r--r--"),
            (0o040755, "drwxr-xr-x"),
            (0o041777, "drwxrwxrwt"),
            (0o041776, "drwxrwxrwT"),
            (0o104755, "-rwsr-xr-x"),
            (0o104655, "-rwSr-xr-x"),
            (0o102745, "-rwxr-Sr-x"),
            (0o102755, "-rwxr-sr-x"),
            (0o120777, "lrwxrwxrwx"),
            (0o020600, "crw-------"),
            (0o060600, "brw-------"),
            (0o010600, "prw-------"),
            (0o140600, "srw-------"),
            (0o000000, "?---------"),
        ];
        for (mode, expected) in table {
            assert_eq!(letters(mode), expected);
        }
    }

    #[test]
    fn lines_look_like_ls() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        let mut stat = nix::sys::stat::stat(file.path()).expect("stat");
        stat.st_mode = 0o100644;
        stat.st_nlink = 1;
        stat.st_uid = 0;
        stat.st_gid = 4_000_000_001;
        stat.st_size = 12;
        stat.st_mtime = 1_000_000;
        let mut line = Vec::new();
        let mut accounts = AccountNames::default();
        long_name(&mut line, b"na\xffme", &stat, &mut accounts, 2_000_000_000);
        let expected = b"-rw-r--r--    1 root     4000000001       12 Jan 12  1970 na\xffme";
        assert_eq!(line, expected, "{}", String::from_utf8_lossy(&line));
        assert!(line.len() <= LONG_NAME_EXTRA_BYTES_MAX + 6);
    }

    #[test]
    fn young_files_show_the_hour_and_others_the_year() {
        let shown = |time, now| {
            let mut out = Vec::new();
            push_time(&mut out, time, now);
            String::from_utf8(out).expect("ASCII")
        };
        let now = 1_700_000_000;
        assert!(shown(now, now).ends_with(':') || shown(now, now).contains(':'));
        assert!(shown(now - RECENT_SECONDS + 1, now).contains(':'));
        assert!(!shown(now - RECENT_SECONDS, now).contains(':'));
        assert!(shown(now + 1, now).ends_with("  2023"));
        assert_eq!(shown(i64::MAX, now), "");
    }
}
