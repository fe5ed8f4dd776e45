//! `caravel doctor`: what is wrong with a cluster and what to do about it, and a bundle of facts for who is to help.
//!
//! Asks the cluster's own service, every server by itself, the API and this machine; changes nothing. What was found is
//! judged in `findings`, purely. No secret is asked for, and what looks like one is taken out of a bundle.

mod bundle;
mod facts;
mod findings;
mod redact;

use crate::cli::{DoctorArgs, Output};
use crate::member;
use findings::{Finding, Severity};
use serde_json::json;
use std::process::ExitCode;

pub async fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let kubeconfig = member::kubeconfig(&args.admin)?;
    let facts = facts::gather(&kubeconfig).await;
    let findings = findings::findings(&facts);
    match args.output {
        Output::Table => print!("{}", table(&facts, &findings)),
        Output::Json => println!("{:#}", document(&facts, &findings)),
    }
    if let Some(file) = &args.bundle {
        bundle::write(file, &kubeconfig, &facts, &document(&facts, &findings)).await?;
        eprintln!("{}: look through it before you send it", file.display());
    }
    let wrong = findings
        .iter()
        .any(|finding| finding.severity == Severity::Problem);
    Ok(match wrong {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

fn table(facts: &facts::Facts, findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let word = match finding.severity {
            Severity::Problem => "PROBLEM",
            Severity::Notice => "notice",
        };
        text.push_str(&format!(
            "{word:<8} {:<22} {}\n{:<31} -> {}\n",
            finding.code, finding.message, "", finding.remedy
        ));
    }
    let problems = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Problem)
        .count();
    let seen = format!(
        "{} server(s) and {} node(s) looked at",
        facts.servers.len(),
        facts.nodes.as_ref().map_or(0, Vec::len)
    );
    text.push_str(&match problems {
        0 => format!("nothing is wrong: {seen}\n"),
        one => format!("{one} problem(s): {seen}\n"),
    });
    text
}

fn document(facts: &facts::Facts, findings: &[Finding]) -> serde_json::Value {
    let healthy = findings
        .iter()
        .all(|finding| finding.severity != Severity::Problem);
    json!({
        "healthy": healthy,
        "findings": findings,
        "servers": facts.servers.len(),
        "nodes": facts.nodes.as_ref().map_or(0, Vec::len),
    })
}
