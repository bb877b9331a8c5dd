//! Debian packages of other suites than the machine's, unpacked into the cache.
//!
//! Invariant: the machine's own list of sources and its installed packages stay as they are: apt works on lists of its own
//! in the cache, from the mirror that the machine uses anyway.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::{self, command, exists, output, step};

/// Suites that have what this machine's lacks.
const SUITES: [&str; 4] = ["bookworm", "trixie", "trixie-backports", "experimental"];

/// Packages of other suites.
pub(super) struct Packages {
    folder: PathBuf,
}

impl Packages {
    /// The suites' lists, fetched once; none, with a line that says why, where they cannot be had.
    pub(super) fn open_or_skip(cache: &Path) -> Option<Self> {
        Self::open(cache).inspect_err(|error| println!("skipped: everything: {error:#}")).ok()
    }

    fn open(cache: &Path) -> Result<Self> {
        for tool in ["apt-get", "apt-cache", "dpkg"] {
            if !exists(tool) {
                bail!("{tool} is missing: this needs Debian or a system like it");
            }
        }
        let packages = Self { folder: cache.join("suites") };
        let lists = packages.folder.join("lists");
        let suites = SUITES.join("\n");
        if std::fs::read_to_string(lists.join("done")).is_ok_and(|have| have == suites) {
            return Ok(packages);
        }
        step(&format!("fetch the package lists of {} into {}", SUITES.join(", "), packages.folder.display()));
        std::fs::create_dir_all(lists.join("partial"))?;
        std::fs::create_dir_all(packages.folder.join("cache/archives/partial"))?;
        let mirror = mirror()?;
        let key = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let sources: String = SUITES.map(|suite| format!("deb [signed-by={key}] {mirror} {suite} main\n")).concat();
        std::fs::write(packages.folder.join("sources.list"), sources)?;
        shell::run(packages.apt("apt-get").args(["-q", "update"]))?;
        std::fs::write(lists.join("done"), suites)?;
        Ok(packages)
    }

    /// The newest package whose name is `start`, a version, and `end`.
    pub(super) fn newest(&self, start: &str, end: &str) -> Result<String> {
        let names = output(self.apt("apt-cache").args(["pkgnames", start]))?;
        let version = |name: &&str| -> Vec<u32> {
            let middle = name.strip_prefix(start).and_then(|rest| rest.strip_suffix(end)).unwrap_or_default();
            middle.trim_start_matches('.').split(['.', '+', '-']).map_while(|number| number.parse().ok()).collect()
        };
        let newest = names.lines().filter(|name| name.ends_with(end)).max_by_key(version);
        newest.map(str::to_owned).with_context(|| format!("no package {start}…{end} in {}", SUITES.join(", ")))
    }

    /// Unpacks packages into a folder of the cache, which it returns; `/SUITE` behind a name chooses the suite.
    pub(super) fn unpacked(&self, folder: &str, names: &[&str]) -> Result<PathBuf> {
        let target = self.folder.join(folder);
        let done = target.join("done");
        let wanted = names.join("\n");
        if std::fs::read_to_string(&done).is_ok_and(|have| have == wanted) {
            return Ok(target);
        }
        step(&format!("fetch {} into {}", names.join(", "), target.display()));
        let debs = target.join("packages");
        std::fs::create_dir_all(&debs)?;
        shell::run(self.apt("apt-get").args(["-q", "download"]).args(names).current_dir(&debs))?;
        for deb in super::entries(&debs)? {
            shell::run(command("dpkg").arg("-x").arg(&deb).arg(&target))?;
        }
        std::fs::remove_dir_all(debs)?;
        std::fs::write(done, wanted)?;
        Ok(target)
    }

    fn apt(&self, program: &str) -> Command {
        let mut apt = command(program);
        for (option, path) in
            [("Dir::Etc::sourcelist", "sources.list"), ("Dir::State::lists", "lists"), ("Dir::Cache", "cache")]
        {
            apt.arg("-o").arg(format!("{option}={}", self.folder.join(path).display()));
        }
        // Downloads as another user could not write into the cache.
        apt.args(["-o", "Dir::Etc::sourceparts=-", "-o", "APT::Sandbox::User=root"]);
        apt
    }
}

/// Where this machine has Debian's packages from.
fn mirror() -> Result<String> {
    let sites = output(command("apt-get").args(["indextargets", "--format", "$(SITE)", "Created-By: Packages"]))?;
    let debian = sites.lines().find(|site| site.trim_end_matches('/').ends_with("/debian"));
    debian.map(str::to_owned).context("apt knows no Debian mirror: run `apt-get update`")
}
