//! The machine's memory, for default budgets, and the memory that this process takes.

/// Bytes assumed where the system does not report them.
const ASSUMED: u64 = 16 << 30;

/// Returns the bytes of main memory, or the limit of this process's control group if that is less, as in a
/// container. 16 GiB on systems other than Linux.
pub fn total() -> u64 {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let machine = parse(&read("/proc/meminfo"), "MemTotal:").unwrap_or(ASSUMED);
    // Inside a container, its control group is the root. Without a limit the file says "max".
    let limit = read("/sys/fs/cgroup/memory.max").trim().parse().unwrap_or(u64::MAX);
    machine.min(limit)
}

/// Main memory that this process takes, in bytes, including the mapped pages of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resident {
    /// Bytes at this moment.
    pub now: u64,
    /// The maximum since the process began.
    pub peak: u64,
}

/// Returns the memory of this process; `None` on systems other than Linux.
pub fn resident() -> Option<Resident> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    Some(Resident { now: parse(&text, "VmRSS:")?, peak: parse(&text, "VmHWM:")? })
}

/// Returns the bytes in a line such as `MemTotal:  24689700 kB`, which begins with `name`.
fn parse(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn total_memory_is_read_from_its_line() {
        let text = "MemFree: 1 kB\nMemTotal:       24689700 kB\n";
        assert_eq!(parse(text, "MemTotal:"), Some(24_689_700 * 1024));
        assert_eq!(parse("MemTotal: lots\n", "MemTotal:"), None);
        assert!(total() > 1 << 28);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_that_is_taken_is_seen() {
        let before = resident().unwrap();
        let held = std::hint::black_box(vec![1u8; 64 << 20]);
        let during = resident().unwrap();
        // The system counts in portions, and other tests take and give memory meanwhile.
        assert!(during.now >= 60 << 20 && during.peak >= 60 << 20 && before.now > 1 << 20);
        drop(held);
        assert!(resident().unwrap().peak >= 60 << 20);
    }
}
