//! How much memory there is for this program before the system ends it: the machine's, and that of the control groups that it is in.
//! Read from Linux's files; where they are not, nobody knows.

use std::fs::read_to_string;
use std::path::Path;

/// The files of a control group with a memory controller: <https://docs.kernel.org/admin-guide/cgroup-v2.html> and
/// <https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>.
struct Version {
    folder: &'static str,
    most: &'static str,
    used: &'static str,
    /// Lines of `memory.stat`: of what is used, what the system gives back before it ends anybody.
    cached: [&'static str; 2],
}

const V1: Version = Version {
    folder: "sys/fs/cgroup/memory",
    most: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cached: ["total_inactive_file", "total_active_file"],
};
const V2: Version = Version {
    folder: "sys/fs/cgroup",
    most: "memory.max",
    used: "memory.current",
    cached: ["inactive_file", "active_file"],
};

/// Bytes that this program can still have, swap space included; `None` where the system does not tell. `root`: of its files.
pub(super) fn available_bytes(root: &Path) -> Option<u64> {
    let machine = read_to_string(root.join("proc/meminfo")).ok()?;
    let swap = 1024 * field(&machine, "SwapFree:").unwrap_or(0);
    let free = 1024 * field(&machine, "MemAvailable:")?;
    let groups = read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let of_groups = groups.lines().filter_map(|line| of_groups(root, line));
    Some(of_groups.fold(free, u64::min) + swap)
}

/// What a group and those above it leave, by its line in `/proc/self/cgroup`: `number:controllers:path`.
fn of_groups(root: &Path, line: &str) -> Option<u64> {
    let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
    let version = match controllers {
        "" => V2,
        _ if controllers.split(',').any(|name| name == "memory") => V1,
        _ => return None,
    };
    // In a container the path may be the one that is seen from outside: those groups count that are there.
    let groups = Path::new(path.trim_start_matches('/')).ancestors();
    groups.filter_map(|group| of_group(&root.join(version.folder).join(group), &version)).min()
}

/// `None` without a limit.
fn of_group(folder: &Path, version: &Version) -> Option<u64> {
    let read = |name: &str| read_to_string(folder.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let (most, used) = (number(version.most)?, number(version.used)?);
    let stat = read("memory.stat").unwrap_or_default();
    let cached = version.cached.iter().filter_map(|name| field(&stat, name)).sum();
    Some(most.saturating_sub(used.saturating_sub(cached)))
}

/// The number behind a name that begins a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use super::*;

    const MEMINFO: (&str, &str) =
        ("proc/meminfo", "MemTotal:  2000 kB\nMemFree:  100 kB\nMemAvailable:  1000 kB\nSwapFree:  24 kB\n");
    const FREE: u64 = 1024 * 1000;
    const SWAP: u64 = 1024 * 24;

    /// What is available where the system has these files.
    fn with(name: &str, files: &[(&str, &str)]) -> Option<u64> {
        let root = std::env::temp_dir().join(format!("sinkstream-memory-{name}-{}", std::process::id()));
        for (file, text) in files {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let bytes = available_bytes(&root);
        let _ = std::fs::remove_dir_all(&root); // not there without files
        bytes
    }

    #[test]
    fn the_machine_tells() {
        assert_eq!(with("nothing", &[]), None);
        assert_eq!(with("old", &[("proc/meminfo", "MemFree: 5 kB\n")]), None);
        assert_eq!(with("machine", &[MEMINFO]), Some(FREE + SWAP));
    }

    #[test]
    fn the_narrowest_group_counts_without_what_it_can_give_back() {
        let of = |name: &str, folder: &str, most: &str| {
            let [most_file, used, stat] =
                ["max", "current", "stat"].map(|file| format!("sys/fs/cgroup/{folder}memory.{file}"));
            let inside = ("proc/self/cgroup", "1:cpu:/a\n0::/a/b\n");
            let stats = "anon 7\ninactive_file 100000\nactive_file 50000\n";
            with(name, &[MEMINFO, inside, (&most_file, most), (&used, "500000\n"), (&stat, stats)])
        };
        let left = 700_000 - (500_000 - 150_000) + SWAP;
        assert_eq!(of("own", "a/b/", "700000\n"), Some(left));
        assert_eq!(of("above", "a/", "700000\n"), Some(left));
        assert_eq!(of("outside", "", "700000\n"), Some(left));
        assert_eq!(of("full", "a/", "1000\n"), Some(SWAP));
        for (name, folder, most) in [("wide", "a/", "9000000\n"), ("none", "a/", "max\n"), ("another", "c/", "1000\n")]
        {
            assert_eq!(of(name, folder, most), Some(FREE + SWAP), "{name}");
        }
    }

    #[test]
    fn groups_of_the_first_version_count_too() {
        let [most, used, stat] =
            ["limit_in_bytes", "usage_in_bytes", "stat"].map(|file| format!("sys/fs/cgroup/memory/pod/memory.{file}"));
        let inside = ("proc/self/cgroup", "4:cpu,memory:/pod/x\n0::/\n");
        let stats = "inactive_file 1\ntotal_inactive_file 90000\ntotal_active_file 10000\n";
        let bytes = with("first", &[MEMINFO, inside, (&most, "600000\n"), (&used, "500000\n"), (&stat, stats)]);
        assert_eq!(bytes, Some(600_000 - 400_000 + SWAP));
    }
}
