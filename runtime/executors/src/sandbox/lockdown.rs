//! Takes everything from the child that user code has no business with, before any user code runs.
//!
//! Each layer stands alone: a kernel that lacks one is reported, and the others hold.

use std::collections::BTreeMap;

use landlock::{ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use serde::{Deserialize, Serialize};

/// How much a sandbox process gives way to the engine's.
const NICENESS: libc::c_int = 5;

/// What holds a sandbox process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lockdown {
    /// System calls are filtered: no files, no sockets, no processes.
    pub seccomp: bool,
    /// Landlock forbids the file system and the network: `full`, `partial` or `none`.
    pub landlock: String,
    /// No privileges can be gained.
    pub no_new_privileges: bool,
    /// Memory, file, process and core limits are set.
    pub resource_limits: bool,
    /// The process dies with its engine.
    pub dies_with_parent: bool,
    /// What is missing, for people.
    pub warnings: Vec<String>,
}

/// Locks the calling process; `address_space_bytes` is what it may map beyond what it has.
pub(super) fn lock(parent: u32, address_space_bytes: u64) -> Lockdown {
    let mut lockdown = Lockdown {
        landlock: "none".to_owned(),
        ..Lockdown::default()
    };
    let mut note = |what: &str, result: Result<(), String>| match result {
        Ok(()) => true,
        Err(error) => {
            lockdown.warnings.push(format!("{what}: {error}"));
            false
        }
    };
    let dies = note("death signal", die_with(parent));
    yield_to_engine();
    // Read while files can still be read.
    let mapped = mapped_bytes();
    let private = note("new privileges", forbid_privileges());
    let (landlock, fenced) = match fence() {
        Ok(status) => (status, Ok(())),
        Err(error) => ("none", Err(error)),
    };
    note("landlock", fenced);
    let limited = note(
        "resource limits",
        mapped.and_then(|mapped| limit_resources(mapped.saturating_add(address_space_bytes))),
    );
    let filtered = note("seccomp", filter_system_calls());
    lockdown.dies_with_parent = dies;
    lockdown.resource_limits = limited;
    lockdown.no_new_privileges = private;
    lockdown.landlock = landlock.to_owned();
    lockdown.seccomp = filtered;
    lockdown
}

fn checked(status: libc::c_int) -> Result<(), String> {
    if status == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error().to_string())
    }
}

#[allow(unsafe_code)]
fn die_with(parent: u32) -> Result<(), String> {
    // SAFETY: plain integers in, nothing is dereferenced.
    checked(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    // The parent may have died before the signal was asked for.
    if std::os::unix::process::parent_id() == parent {
        Ok(())
    } else {
        std::process::exit(0)
    }
}

/// Closes whatever an embedding program let slip through. Must come before this process opens anything of its own.
#[allow(unsafe_code)]
pub(super) fn close_inherited() {
    // SAFETY: at this point nothing in this process uses a descriptor beyond the standard three. A kernel without
    // the call leaves them open; descriptors are marked close-on-exec by everything in this workspace anyway.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
}

/// Where processors are short the engine goes first: a loop in here must not hold up what needs no sandbox.
#[allow(unsafe_code)]
fn yield_to_engine() {
    // SAFETY: a plain integer in, nothing is dereferenced. Asking for less never fails.
    unsafe { libc::nice(NICENESS) };
}

fn mapped_bytes() -> Result<u64, String> {
    let pages = std::fs::read_to_string("/proc/self/statm").map_err(|error| error.to_string())?;
    let pages = pages
        .split(' ')
        .next()
        .and_then(|pages| pages.parse::<u64>().ok())
        .ok_or("statm is unreadable")?;
    Ok(pages * 4096)
}

#[allow(unsafe_code)]
fn limit_resources(address_space_bytes: u64) -> Result<(), String> {
    let limits = [
        (libc::RLIMIT_AS, address_space_bytes),
        (libc::RLIMIT_FSIZE, 0),
        (libc::RLIMIT_CORE, 0),
        (libc::RLIMIT_NPROC, 0),
        (libc::RLIMIT_MEMLOCK, 0),
        // The standard three and the copy of standard output; no further one fits.
        (libc::RLIMIT_NOFILE, 4),
    ];
    for (resource, most) in limits {
        let limit = libc::rlimit {
            rlim_cur: most,
            rlim_max: most,
        };
        // SAFETY: `limit` is a valid rlimit.
        checked(unsafe { libc::setrlimit(resource, &raw const limit) })?;
    }
    Ok(())
}

#[allow(unsafe_code)]
fn forbid_privileges() -> Result<(), String> {
    // SAFETY: plain integers in, nothing is dereferenced.
    checked(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })?;
    // SAFETY: as above.
    checked(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
}

/// Landlock without a single rule: nothing of the file system and the network is left.
fn fence() -> Result<&'static str, String> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V6))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(ABI::V6)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(ABI::V6)))
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.restrict_self())
        .map_err(|error| error.to_string())?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => Ok("full"),
        RulesetStatus::PartiallyEnforced => Ok("partial"),
        RulesetStatus::NotEnforced => Err("the kernel does not offer it".to_owned()),
    }
}

/// Everything but computing, memory and the open pipes is refused with `EPERM`.
fn filter_system_calls() -> Result<(), String> {
    let always = [
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_close,
        libc::SYS_futex,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_brk,
        libc::SYS_madvise,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_gettimeofday,
        libc::SYS_getrandom,
        libc::SYS_sched_yield,
        libc::SYS_getpid,
        libc::SYS_getppid,
        libc::SYS_gettid,
        libc::SYS_rt_sigreturn,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigaction,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_ppoll,
        libc::SYS_exit,
        libc::SYS_exit_group,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll,
    ];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = always.into_iter().map(|call| (call, Vec::new())).collect();
    // Memory may be mapped, never made executable.
    let data_only = || {
        let op = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
        let condition = SeccompCondition::new(2, SeccompCmpArgLen::Dword, op, 0)?;
        SeccompRule::new(vec![condition])
    };
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![data_only().map_err(|error| error.to_string())?]);
    }
    let arch = std::env::consts::ARCH
        .try_into()
        .map_err(|error: seccompiler::BackendError| error.to_string())?;
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, arch).map_err(|error| error.to_string())?;
    let program: BpfProgram = filter
        .try_into()
        .map_err(|error: seccompiler::BackendError| error.to_string())?;
    seccompiler::apply_filter(&program).map_err(|error| error.to_string())
}

/// Tries natively what must be refused; gives each attempt with the error's name, or `allowed`.
#[allow(unsafe_code)]
pub(super) fn probe() -> serde_json::Value {
    let outcome = |status: i64| {
        if status >= 0 {
            return "allowed".to_owned();
        }
        match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::EPERM) => "EPERM".to_owned(),
            Some(libc::EACCES) => "EACCES".to_owned(),
            Some(code) => format!("errno {code}"),
            None => "unknown".to_owned(),
        }
    };
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 80_u16.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes([127, 0, 0, 1]),
        },
        sin_zero: [0; 8],
    };
    let arguments: [*const libc::c_char; 2] = [c"true".as_ptr(), std::ptr::null()];
    // SAFETY: every pointer is valid for its call; a forked child would leave at once.
    unsafe {
        let open = libc::open(c"/etc/passwd".as_ptr(), libc::O_RDONLY);
        let open = outcome(open.into());
        let create = libc::open(c"/tmp/troupe-probe".as_ptr(), libc::O_CREAT | libc::O_WRONLY, 0o600);
        let create = outcome(create.into());
        let socket = outcome(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0).into());
        let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_in>()).unwrap_or(0);
        let connect = outcome(libc::connect(0, (&raw const address).cast(), length).into());
        let forked = libc::fork();
        if forked == 0 {
            libc::_exit(0);
        }
        let fork = outcome(forked.into());
        let exec = outcome(libc::execv(c"/bin/true".as_ptr(), arguments.as_ptr()).into());
        let kill = outcome(libc::kill(libc::getppid(), 0).into());
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let code = libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_EXEC,
            flags,
            -1,
            0,
        );
        let executable = outcome(if code == libc::MAP_FAILED { -1 } else { 0 });
        serde_json::json!({
            "open": open, "create": create, "socket": socket, "connect": connect, "fork": fork, "exec": exec,
            "kill": kill, "executableMemory": executable,
        })
    }
}
