//! `aqueduct publish DIR REPO`: a folder of quants to the Hugging Face hub.

use super::{Context, show};
use crate::Error;
use crate::base::size;
use crate::build::publish::{self, Folder, Options};
use crate::hub::HubName;
use crate::report;
use clap::Args;
use serde_json::{Value as Json, json};
use std::path::PathBuf;

/// Upload a folder of quants, as `build` makes it, to a model repository on the Hugging Face hub.
///
/// The folder is verified first. The repository and the branch are made where they are absent, and everything goes in
/// one commit; what the hub has already is not sent, so the same command continues after an interruption. The token is
/// that of HF_TOKEN or of `hf auth login`. A program that was built without the feature `hub` prints the command of the
/// hub's own program instead.
#[derive(Args)]
pub(super) struct Arguments {
    /// The folder. Hidden files in it stay where they are.
    dir: PathBuf,
    /// The repository, OWNER/NAME.
    repo: String,
    /// The branch.
    #[arg(long, value_name = "BRANCH")]
    revision: Option<String>,
    /// If the repository has to be made, make it private.
    #[arg(long)]
    private: bool,
    /// The commit's message.
    #[arg(long, short, value_name = "TEXT", visible_alias = "commit-message")]
    message: Option<String>,
    /// Send only files whose path in the folder matches; `*` matches `/`, too. May be given several times.
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Send no file whose path matches. May be given several times.
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Check the folder and show what would be sent, without asking the hub.
    #[arg(long)]
    dry_run: bool,
    /// Do not check the folder: neither structure and sums of files nor the card.
    #[arg(long)]
    no_verify: bool,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<()> {
        let repo = HubName::parse(&self.repo, self.revision.as_deref()).ok_or_else(|| {
            Error::Usage(format!(
                "{:?} is no repository, or {:?} no branch; write OWNER/NAME",
                self.repo,
                self.revision.as_deref().unwrap_or("main")
            ))
        })?;
        let (folder, private, message) = (self.dir, self.private, self.message);
        let (include, exclude) = (self.include, self.exclude);
        let options = Options { folder, repo, private, message, include, exclude };
        let folder = Folder::open(&options)?;
        if !self.no_verify {
            context.warn_all(folder.check(context.progress())?);
        }
        if self.dry_run {
            return planned(&options, &folder, context);
        }
        finish(&options, &folder, !self.no_verify, context)
    }
}

/// What would be sent.
fn planned(options: &Options, folder: &Folder, context: &Context) -> anyhow::Result<()> {
    let (repo, branch) = (options.repo.path(), options.repo.revision());
    if context.json {
        let mut plan = plan(options, folder);
        plan["dry_run"] = true.into();
        return context.json(&plan);
    }
    let rows = folder.files.iter().map(|file| vec![file.name.clone(), size::display(file.bytes)]);
    show::text(&report::table(&["file", ">size"], rows));
    let (count, bytes) = (folder.files.len(), size::display(folder.bytes()));
    show::text(&format!("\n{count} files, {bytes}, would go to {repo}, branch {branch}"));
    Ok(())
}

fn plan(options: &Options, folder: &Folder) -> Json {
    json!({
        "repo": options.repo.path(),
        "revision": options.repo.revision(),
        "files": folder.files,
        "bytes": folder.bytes(),
    })
}

/// Says what uploads the folder.
#[cfg(not(feature = "hub"))]
fn finish(options: &Options, folder: &Folder, _: bool, context: &Context) -> anyhow::Result<()> {
    let words = publish::hf_command(options);
    let command = words.iter().map(super::shell::quoted).collect::<Vec<_>>().join(" ");
    if context.json {
        let mut plan = plan(options, folder);
        plan["command"] = command.into();
        return context.json(&plan);
    }
    let (count, bytes) = (folder.files.len(), size::display(folder.bytes()));
    context.progress().note(&format!(
        "{count} files, {bytes}. This program was built without the feature hub; this command uploads them:"
    ));
    show::text(&command);
    Ok(())
}

/// Uploads the folder.
#[cfg(feature = "hub")]
fn finish(
    options: &Options,
    folder: &Folder,
    checked: bool,
    context: &Context,
) -> anyhow::Result<()> {
    use crate::hub::UploadOutcome;
    let uploaded = publish::publish(options, folder, checked, context.progress())?;
    let sum = |outcome: UploadOutcome| -> u64 {
        uploaded.files.iter().filter(|file| file.outcome == outcome).map(|file| file.bytes).sum()
    };
    if context.json {
        let mut result = serde_json::to_value(&uploaded)?;
        result["sent_bytes"] = sum(UploadOutcome::Sent).into();
        result["revision"] = options.repo.revision().into();
        return context.json(&result);
    }
    let rows = uploaded.files.iter().map(|file| {
        let outcome = match file.outcome {
            UploadOutcome::Sent => "sent",
            UploadOutcome::Present => "content was there",
            UploadOutcome::Unchanged => "unchanged",
            UploadOutcome::Ignored => "ignored by .gitignore",
        };
        vec![file.name.clone(), size::display(file.bytes), outcome.to_string()]
    });
    show::text(&report::table(&["file", ">size", ""], rows));
    let (sent, all) = (size::display(sum(UploadOutcome::Sent)), size::display(folder.bytes()));
    show::text(&format!("\n{} files, {all}, {sent} sent", uploaded.files.len()));
    let commit = uploaded.commit.map_or(String::new(), |commit| format!(", commit {commit}"));
    let branch = options.repo.revision();
    show::text(&format!("{}, branch {branch}{commit}", uploaded.url));
    Ok(())
}
