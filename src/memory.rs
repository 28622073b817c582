//! How much memory the machine has, for budgets that are not given.

/// Bytes assumed where the system does not tell.
const ASSUMED: u64 = 16 << 30;

/// Bytes of main memory: what Linux tells, or 16 GiB where nothing does; the limit of this process's control group
/// where that is less, as in a container.
pub fn total() -> u64 {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let machine = parse(&read("/proc/meminfo")).unwrap_or(ASSUMED);
    // Seen from inside a container, its own group is the root. Without a limit the file says "max".
    let limit = read("/sys/fs/cgroup/memory.max").trim().parse().unwrap_or(u64::MAX);
    machine.min(limit)
}

/// The line `MemTotal:  24689700 kB` of /proc/meminfo, in bytes.
fn parse(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn total_memory_is_read_from_its_line() {
        assert_eq!(parse("MemFree: 1 kB\nMemTotal:       24689700 kB\n"), Some(24_689_700 * 1024));
        assert_eq!(parse("MemTotal: lots\n"), None);
        assert!(total() > 1 << 28);
    }
}
