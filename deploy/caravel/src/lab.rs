//! `caravel lab`: the commands' shell around the lab crate.

use crate::cli::{LabCommand, LabDir, LabImageCommand, Output};
use anyhow::Context as _;
use caravel_lab::{Layout, Record, UpOptions, cut, daemon, down, enter, environment, status, up};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitCode;

pub async fn run(command: LabCommand) -> anyhow::Result<ExitCode> {
    let layout = |dir: &LabDir| Layout::new(&dir.dir);
    match command {
        LabCommand::Up {
            dir,
            servers,
            nodes,
            images,
            isolated,
            server_config,
            node_config,
        } => {
            let options = UpOptions {
                servers,
                nodes,
                masquerade: !isolated,
                images,
                server_config,
                node_config,
            };
            up::up(&layout(&dir)?, &options).await?;
            if dir.dir == Path::new(caravel_lab::layout::DEFAULT_DIR) {
                eprintln!("next: eval \"$(caravel lab env)\"; kubectl get nodes");
            } else {
                eprintln!(
                    "next: eval \"$(caravel lab env --dir {})\"; kubectl get nodes",
                    dir.dir.display()
                );
            }
        }
        LabCommand::Down { dir } => {
            let layout = layout(&dir)?;
            let was = layout.dir().exists();
            // What a lab left behind whose directory is gone is removed all the same.
            down::down(&layout)?;
            match was {
                true => println!("the lab in {} is gone", layout.dir().display()),
                false => println!("there is no lab in {}", layout.dir().display()),
            }
        }
        LabCommand::Status { dir, output } => {
            let status = status::status(&layout(&dir)?).await?;
            match output {
                Output::Json => println!("{}", serde_json::to_string(&status)?),
                Output::Table => print!("{}", status.table()),
            }
        }
        LabCommand::Exec { dir, host, command } => {
            let layout = layout(&dir)?;
            let host = Record::load(&layout)?.host(&host)?.name.clone();
            return exec(&layout, &host, &command);
        }
        LabCommand::Stop { dir, host } => on_host(&layout(&dir)?, &host, daemon::stop)?,
        LabCommand::Start { dir, host } => on_host(&layout(&dir)?, &host, daemon::start)?,
        LabCommand::Kill { dir, host } => on_host(&layout(&dir)?, &host, daemon::kill)?,
        LabCommand::Pause { dir, host } => on_host(&layout(&dir)?, &host, daemon::pause)?,
        LabCommand::Resume { dir, host } => on_host(&layout(&dir)?, &host, daemon::resume)?,
        LabCommand::Cut { dir, a, b, one_way } => {
            let layout = layout(&dir)?;
            let record = Record::load(&layout)?;
            let (a, b) = (record.host(&a)?, record.host(&b)?);
            cut::cut(&layout, a, b)?;
            if !one_way {
                cut::cut(&layout, b, a)?;
            }
        }
        LabCommand::Heal { dir, pair } => {
            let layout = layout(&dir)?;
            let record = Record::load(&layout)?;
            match &pair[..] {
                [a, b] => {
                    let (a, b) = (record.host(a)?, record.host(b)?);
                    cut::heal(&layout, a, b)?;
                    cut::heal(&layout, b, a)?;
                }
                _ => {
                    for host in &record.hosts {
                        cut::heal_all(&layout, host)?;
                    }
                }
            }
        }
        LabCommand::Env { dir } => print!("{}", environment::exports(&layout(&dir)?)?),
        LabCommand::Balance { dir } => {
            let layout = layout(&dir)?;
            tokio::select! {
                result = caravel_lab::balance::run(&layout) => result?,
                () = crate::tasks::terminated() => {}
            }
        }
        LabCommand::Image(LabImageCommand::Import { dir, files }) => {
            let layout = layout(&dir)?;
            let caravel = daemon::program()?;
            let files = files
                .iter()
                .map(|f| f.canonicalize().with_context(|| format!("{}", f.display())))
                .collect::<Result<Vec<_>, _>>()?;
            for node in Record::load(&layout)?.nodes() {
                let mut argv: Vec<std::ffi::OsString> =
                    vec![caravel.clone().into(), "image".into(), "import".into()];
                argv.extend(files.iter().map(|f| f.clone().into_os_string()));
                let code = exec(&layout, &node.name, &argv)?;
                if code != ExitCode::SUCCESS {
                    return Ok(code);
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn on_host(
    layout: &Layout,
    host: &str,
    act: fn(&Layout, &caravel_lab::Host) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let record = Record::load(layout)?;
    act(layout, record.host(host)?)
}

/// The command's exit status becomes ours; killed by a signal, 128 + the signal, as shells say it.
fn exec(layout: &Layout, host: &str, command: &[std::ffi::OsString]) -> anyhow::Result<ExitCode> {
    let [program, args @ ..] = command else {
        anyhow::bail!("no command is given")
    };
    let status = enter::command(layout, host, program)?
        .args(args)
        .current_dir("/")
        .status()
        .with_context(|| format!("run {} on {host}", program.to_string_lossy()))?;
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
