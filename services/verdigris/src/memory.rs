//! How much memory this process may use: the least limit of its control groups, or all that the machine has.
//!
//! Deliberately absent: how much is in use. A release that is mapped takes as much as it needs of what is free.

use std::fs;
use std::path::{Path, PathBuf};

/// Where control groups of the second version are.
const GROUPS: &str = "/sys/fs/cgroup";

/// Bytes that this process may use; none where the system does not say.
pub(crate) fn memory_limit() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    limit_of_groups(Path::new(GROUPS), &own)
        .into_iter()
        .chain(machine)
        .min()
}

/// The least limit of a group and of those that it lies in.
fn limit_of_groups(root: &Path, own: &str) -> Option<u64> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let group: PathBuf = root.join(path.trim_start_matches('/'));
    let limit = |group: &Path| -> Option<u64> {
        let text = fs::read_to_string(group.join("memory.max")).ok()?;
        // "max" is no limit.
        text.trim().parse().ok()
    };
    let groups = group.ancestors().take_while(|group| group.starts_with(root));
    groups.filter_map(limit).min()
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let inner = folder.path().join("outer/inner");
        fs::create_dir_all(&inner).expect("made");
        fs::write(inner.join("memory.max"), "max\n").expect("written");
        fs::write(folder.path().join("outer/memory.max"), "1048576\n").expect("written");
        assert_eq!(limit_of_groups(folder.path(), "0::/outer/inner\n"), Some(1 << 20));
        fs::write(inner.join("memory.max"), "4096\n").expect("written");
        assert_eq!(limit_of_groups(folder.path(), "0::/outer/inner\n"), Some(4_096));
        assert_eq!(limit_of_groups(folder.path(), "0::/elsewhere\n"), None);
        assert_eq!(limit_of_groups(folder.path(), "12:memory:/old\n"), None);
    }

    #[test]
    fn the_machine_says_what_it_has() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       16384 kB\n"), Some(16 << 20));
        assert_eq!(total(""), None);
        assert!(memory_limit().is_some_and(|bytes| bytes > 1 << 20));
    }
}
