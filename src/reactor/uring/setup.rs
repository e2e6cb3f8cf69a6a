use std::fmt;
use std::io;

use io_uring::register::Restriction;
use io_uring::{IoUring, Probe, opcode, squeue};

use super::UringConfig;

/// What the kernel offers of what the driver can use, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    pub single_issuer: bool,
    pub deferred_task_work: bool,
    pub cooperative_task_work: bool,
    pub submit_all: bool,
    pub no_submission_array: bool,
    pub silent_cancel: bool,
    pub no_iowait: bool,
    pub buffer_ring: bool,
    pub multishot_accept: bool,
    pub worker_limits: bool,
}

impl Features {
    fn named(&self) -> [(&'static str, bool); 10] {
        [
            ("single issuer", self.single_issuer),
            ("deferred task work", self.deferred_task_work),
            ("cooperative task work", self.cooperative_task_work),
            ("submit all", self.submit_all),
            ("no submission array", self.no_submission_array),
            ("silent cancel", self.silent_cancel),
            ("no iowait", self.no_iowait),
            ("buffer ring", self.buffer_ring),
            ("multishot accept", self.multishot_accept),
            ("worker limits", self.worker_limits),
        ]
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |present: bool| {
            let names: Vec<&str> =
                self.named().into_iter().filter(|(_, on)| *on == present).map(|(n, _)| n).collect();
            names.join(", ")
        };
        write!(f, "io_uring with {}", list(true))?;
        match list(false) {
            absent if absent.is_empty() => Ok(()),
            absent => write!(f, "; without {absent}"),
        }
    }
}

/// Makes a ring with the best set of flags this kernel takes. Buffer ring, multishot accept and
/// worker limits are found out later, by use.
pub(super) fn build(config: &UringConfig) -> io::Result<(IoUring, Features)> {
    let mut refusal = None;
    let first = if config.plain { LADDER.len() - 1 } else { 0 };
    for step in &LADDER[first..] {
        match try_build(config, *step) {
            Ok(ring) => {
                check(&ring)?;
                let mut features = *step;
                features.silent_cancel = ring.params().is_feature_skip_cqe_on_success();
                features.no_iowait = !config.plain && ring.params().is_feature_no_iowait();
                return Ok((ring, features));
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refusal = Some(error),
            Err(error) => return Err(explain(error, disabled_setting().as_deref())),
        }
    }
    Err(explain(refusal.unwrap_or_else(unsupported), disabled_setting().as_deref()))
}

fn try_build(config: &UringConfig, step: Features) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    if config.confined {
        builder.setup_r_disabled();
    }
    // Not inherited by children: a ring shared after fork would corrupt both.
    builder.dontfork().setup_clamp().setup_cqsize(config.completions);
    if step.submit_all {
        builder.setup_submit_all();
    }
    if step.cooperative_task_work {
        builder.setup_coop_taskrun().setup_taskrun_flag();
    }
    if step.single_issuer {
        builder.setup_single_issuer();
    }
    if step.deferred_task_work {
        builder.setup_defer_taskrun();
    }
    if step.no_submission_array {
        builder.setup_no_sqarray();
    }
    builder.build(config.submissions)
}

/// Restricts a ring that was made disabled, for good, and enables it. What registers buffers and
/// limits comes before; nothing is registered after.
pub(super) fn confine(ring: &IoUring) -> io::Result<()> {
    let flags = squeue::Flags::BUFFER_SELECT | squeue::Flags::SKIP_SUCCESS;
    let mut rules: Vec<_> = CONFINED.into_iter().map(Restriction::sqe_op).collect();
    rules.push(Restriction::sqe_flags_allowed(flags.bits()));
    let submitter = ring.submitter();
    submitter.register_restrictions(&mut rules)?;
    submitter.register_enable_rings()
}

/// What cannot be done without: all of it is in Linux 5.11.
fn check(ring: &IoUring) -> io::Result<()> {
    let params = ring.params();
    let complete = params.is_feature_nodrop()
        && params.is_feature_submit_stable()
        && params.is_feature_rw_cur_pos()
        && params.is_feature_fast_poll()
        && params.is_feature_ext_arg();
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    if complete && OPCODES.iter().all(|code| probe.is_supported(*code)) {
        Ok(())
    } else {
        Err(unsupported())
    }
}

fn unsupported() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "io_uring: this kernel's is older than Linux 5.11")
}

/// Says what most likely stands behind a refusal. `disabled` is the value of the sysctl.
fn explain(error: io::Error, disabled: Option<&str>) -> io::Error {
    let cause = match (error.raw_os_error(), disabled) {
        (Some(libc::EPERM), Some("2")) => {
            "the sysctl kernel.io_uring_disabled is 2, which forbids it to everyone".to_owned()
        }
        (Some(libc::EPERM), Some("1")) => {
            "the sysctl kernel.io_uring_disabled is 1, which forbids \
             it outside the group kernel.io_uring_group"
                .to_owned()
        }
        (Some(libc::EPERM | libc::EACCES), _) => "a seccomp profile or security module forbids it \
             (container runtimes do by default); kernel.io_uring_disabled does not"
            .to_owned(),
        (Some(libc::ENOSYS), _) => {
            "the kernel was built without it, or a seccomp profile hides it \
             (container runtimes do by default)"
                .to_owned()
        }
        (Some(libc::ENOMEM), _) => {
            "out of memory, or over the locked-memory limit (ulimit -l), by which some kernels \
             count the rings of a user's processes"
                .to_owned()
        }
        (Some(libc::EMFILE | libc::ENFILE), _) => "too many open files".to_owned(),
        _ => "the kernel takes none of the known sets of flags".to_owned(),
    };
    io::Error::new(error.kind(), format!("io_uring is refused: {error}: {cause}"))
}

fn disabled_setting() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?;
    Some(text.trim().to_owned())
}

const NOTHING: Features = Features {
    single_issuer: false,
    deferred_task_work: false,
    cooperative_task_work: false,
    submit_all: false,
    no_submission_array: false,
    silent_cancel: false,
    no_iowait: false,
    buffer_ring: false,
    multishot_accept: false,
    worker_limits: false,
};
/// Linux 5.18.
const WITH_SUBMIT_ALL: Features = Features { submit_all: true, ..NOTHING };
/// Linux 5.19.
const WITH_COOPERATION: Features = Features { cooperative_task_work: true, ..WITH_SUBMIT_ALL };
/// Linux 6.0.
const WITH_ISSUER: Features = Features { single_issuer: true, ..WITH_COOPERATION };
/// Linux 6.1.
const WITH_DEFERRAL: Features = Features { deferred_task_work: true, ..WITH_ISSUER };
/// Linux 6.6.
const WITH_EVERYTHING: Features = Features { no_submission_array: true, ..WITH_DEFERRAL };
/// Best first.
const LADDER: [Features; 6] =
    [WITH_EVERYTHING, WITH_DEFERRAL, WITH_ISSUER, WITH_COOPERATION, WITH_SUBMIT_ALL, NOTHING];

const OPCODES: [u8; 12] = [
    opcode::Accept::CODE,
    opcode::Recv::CODE,
    opcode::RecvMsg::CODE,
    opcode::Send::CODE,
    opcode::SendMsg::CODE,
    opcode::Read::CODE,
    opcode::Readv::CODE,
    opcode::Write::CODE,
    opcode::Writev::CODE,
    opcode::Fsync::CODE,
    opcode::PollAdd::CODE,
    opcode::AsyncCancel::CODE,
];

/// What a confined ring may do. It reads for the waker's bell alone.
const CONFINED: [u8; 7] = [
    opcode::Accept::CODE,
    opcode::Recv::CODE,
    opcode::Send::CODE,
    opcode::SendMsg::CODE,
    opcode::Read::CODE,
    opcode::PollAdd::CODE,
    opcode::AsyncCancel::CODE,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(errno: i32, disabled: Option<&str>) -> String {
        explain(io::Error::from_raw_os_error(errno), disabled).to_string()
    }

    #[test]
    fn a_refusal_names_its_likely_cause() {
        assert!(cause(libc::EPERM, Some("2")).contains("kernel.io_uring_disabled is 2"));
        assert!(cause(libc::EPERM, Some("1")).contains("kernel.io_uring_group"));
        assert!(cause(libc::EPERM, Some("0")).contains("seccomp"));
        assert!(cause(libc::EPERM, None).contains("seccomp"));
        assert!(cause(libc::ENOSYS, None).contains("seccomp"));
        assert!(cause(libc::ENOMEM, None).contains("ulimit -l"));
        let error = explain(io::Error::from_raw_os_error(libc::EPERM), None);
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn features_are_listed_present_and_absent() {
        let text = Features { single_issuer: true, buffer_ring: true, ..NOTHING }.to_string();
        assert!(text.starts_with("io_uring with single issuer, buffer ring; without"), "{text}");
        assert!(text.contains("multishot accept"));
    }
}
