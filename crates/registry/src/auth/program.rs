//! Credential helpers: programs that docker's configuration names, run as `docker-credential-NAME get`.
//!
//! No shell, no search path from the environment: a helper is looked for in the folders that the
//! configuration names, and nowhere else. It is ended, with all that it started, when it takes too long.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::Secret;
use crate::error::ProgramError;

/// Time for one question: cloud helpers ask a metadata service and their registry's API.
const DEADLINE: Duration = Duration::from_secs(10);
/// Longest answer: a token of a few kilobytes.
const MAX_ANSWER: u64 = 64 << 10;
/// Longest name of a helper.
pub(super) const MAX_NAME: usize = 64;
/// What a helper writes, and fails, when it has nothing (docker's own libraries agree on it).
const NOTHING: &[u8] = b"credentials not found in native keychain";
/// The user that says that the secret is a refresh token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks the helper of this name for the credentials of `server`.
pub(super) async fn ask(
    folders: &[PathBuf],
    name: &str,
    server: &str,
) -> Result<Option<Secret>, ProgramError> {
    let program = find(folders, name).ok_or(ProgramError::Absent)?;
    tokio::time::timeout(DEADLINE, run(&program, server))
        .await
        .map_err(|_elapsed| ProgramError::Timeout)?
}

/// The program, in the first folder that has it.
fn find(folders: &[PathBuf], name: &str) -> Option<PathBuf> {
    // What has a slash or dots would lead out of the folder.
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_name) {
        return None;
    }
    folders
        .iter()
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(format!("docker-credential-{name}")))
        .find(|program| {
            program.metadata().is_ok_and(|metadata| {
                metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
            })
        })
}

/// Ends what the helper started when nobody waits for it any more.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // It may have ended by itself.
            kill_process_group(pid, Signal::KILL).unwrap_or_default();
        }
    }
}

async fn run(program: &Path, server: &str) -> Result<Option<Secret>, ProgramError> {
    let failed = |error: std::io::Error| ProgramError::Run(error.kind());
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let pid = child
        .id()
        .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let mut group = Group(pid);
    let answer = talk(&mut child, server).await?;
    let status = child.wait().await.map_err(failed)?;
    // From here on the number may be another process's.
    group.0 = None;
    if status.success() {
        return secret(&answer).map(Some);
    }
    if answer.trim_ascii() == NOTHING {
        Ok(None)
    } else {
        Err(ProgramError::Failed)
    }
}

/// The question on its standard input, the answer from its standard output.
async fn talk(child: &mut Child, server: &str) -> Result<Vec<u8>, ProgramError> {
    let failed = |error: std::io::Error| ProgramError::Run(error.kind());
    if let Some(mut input) = child.stdin.take() {
        match input.write_all(server.as_bytes()).await {
            // Some know the answer without reading the question.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                return Err(failed(error));
            }
            _ => {}
        }
    }
    let mut answer = Vec::new();
    if let Some(output) = child.stdout.take() {
        let most = MAX_ANSWER.saturating_add(1);
        output
            .take(most)
            .read_to_end(&mut answer)
            .await
            .map_err(failed)?;
    }
    if u64::try_from(answer.len()).is_ok_and(|length| length <= MAX_ANSWER) {
        Ok(answer)
    } else {
        Err(ProgramError::TooLong)
    }
}

fn secret(answer: &[u8]) -> Result<Secret, ProgramError> {
    let Answer { username, secret } =
        serde_json::from_slice(answer).map_err(|_json| ProgramError::Answer)?;
    if secret.is_empty() {
        return Err(ProgramError::Answer);
    }
    Ok(if username == TOKEN_USER {
        Secret::Refresh(secret)
    } else {
        Secret::Password {
            username,
            password: secret,
        }
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// A folder with a helper `test` that runs this script.
    fn helper(script: &str) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("docker-credential-test");
        // Written by another process: a file that this one holds open for writing is passed on to what
        // another test starts at that moment, and could not be executed ("text file busy").
        let written = std::process::Command::new("sh")
            .args([
                "-c",
                "printf '%s\\n' \"$2\" >\"$1\" && chmod 755 \"$1\"",
                "sh",
            ])
            .arg(&program)
            .arg(format!("#!/bin/sh\n{script}"))
            .status();
        assert!(written.unwrap().success());
        folder
    }

    async fn answer(script: &str) -> Result<Option<Secret>, ProgramError> {
        let folder = helper(script);
        ask(&[folder.path().to_owned()], "test", "r.example").await
    }

    #[tokio::test]
    async fn a_helper_is_asked_for_the_server_and_gives_a_password_or_a_token() {
        let script = r#"test "$1" = get || exit 9; read -r server; printf '{"ServerURL":"%s","Username":"u","Secret":"%s"}' "$server" "$server""#;
        assert_eq!(
            answer(script).await,
            Ok(Some(Secret::Password {
                username: "u".to_owned(),
                password: "r.example".to_owned()
            }))
        );
        assert_eq!(
            answer(r#"echo '{"Username":"<token>","Secret":"t"}'"#).await,
            Ok(Some(Secret::Refresh("t".to_owned())))
        );
    }

    #[tokio::test]
    async fn a_helper_that_has_nothing_is_told_from_one_that_fails() {
        assert_eq!(
            answer("echo 'credentials not found in native keychain'; exit 1").await,
            Ok(None)
        );
        assert_eq!(answer("exit 1").await, Err(ProgramError::Failed));
        assert_eq!(answer("echo '{}'").await, Err(ProgramError::Answer));
        assert_eq!(
            answer(r#"echo '{"Username":"u","Secret":""}'"#).await,
            Err(ProgramError::Answer)
        );
    }

    #[tokio::test]
    async fn an_endless_answer_ends_at_the_limit() {
        assert_eq!(answer("yes").await, Err(ProgramError::TooLong));
    }

    #[tokio::test(start_paused = true)]
    async fn a_helper_that_never_ends_runs_into_the_deadline() {
        assert_eq!(answer("sleep 1000").await, Err(ProgramError::Timeout));
    }

    #[tokio::test]
    async fn a_helper_that_nobody_waits_for_is_ended_with_all_that_it_started() {
        let folder = helper("exec 3>\"$0.fifo\"; echo up >&3; sleep 1000 & wait");
        let fifo = folder.path().join("docker-credential-test.fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
        let mut open = tokio::net::unix::pipe::OpenOptions::new()
            .open_receiver(&fifo)
            .unwrap();
        let program = folder.path().join("docker-credential-test");
        let mut running = tokio::task::JoinSet::new();
        running.spawn(async move { run(&program, "r.example").await });
        let mut up = [0; 3];
        while open.read(&mut up).await.unwrap() == 0 {
            open.readable().await.unwrap();
            tokio::task::yield_now().await;
        }

        running.shutdown().await;

        // It ends when the last process that holds the other side is gone.
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_mins(1), open.read_to_end(&mut rest));
        ended.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn only_a_plain_name_in_an_absolute_folder_is_run() {
        let folder = helper("echo '{\"Username\":\"u\",\"Secret\":\"s\"}'");
        let folders = [folder.path().to_owned()];
        for name in ["", "../test", "test/../test", "te st", "test;true", "other"] {
            let asked = ask(&folders, name, "r.example").await;
            assert_eq!(asked, Err(ProgramError::Absent), "{name}");
        }
        let relative = ask(&[PathBuf::from(".")], "test", "r.example").await;
        assert_eq!(relative, Err(ProgramError::Absent));
        let program = folder.path().join("docker-credential-test");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(
            ask(&folders, "test", "r.example").await,
            Err(ProgramError::Absent)
        );
    }
}
