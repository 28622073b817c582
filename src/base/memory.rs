//! How much memory the machine has, for budgets that are not given, and how much this process takes.

/// Bytes assumed where the system does not tell.
const ASSUMED: u64 = 16 << 30;

/// Bytes of main memory: what Linux tells, or 16 GiB where nothing does; the limit of this process's control group
/// where that is less, as in a container.
pub fn total() -> u64 {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let machine = parse(&read("/proc/meminfo"), "MemTotal:").unwrap_or(ASSUMED);
    // Seen from inside a container, its own group is the root. Without a limit the file says "max".
    let limit = read("/sys/fs/cgroup/memory.max").trim().parse().unwrap_or(u64::MAX);
    machine.min(limit)
}

/// Main memory that this process has, in bytes: its own, and the pages of files that it has mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resident {
    pub now: u64,
    /// The most since the process began.
    pub peak: u64,
}

/// What this process has now and has had; none where the system does not tell it as Linux does.
pub fn resident() -> Option<Resident> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    Some(Resident { now: parse(&text, "VmRSS:")?, peak: parse(&text, "VmHWM:")? })
}

/// A line such as `MemTotal:  24689700 kB`, which begins with `name`, in bytes.
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
