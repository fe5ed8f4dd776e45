//! How a remote command ended, as the client's error stream carries it: a `Status` object since the
//! fourth version of the protocol, a sentence before. Upstream: kubelet's `remotecommand.ServeExec`.

use serde_json::json;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command's exit code.
    Exited(i32),
    Failed(String),
}

impl Outcome {
    /// Nothing for a success before version 4.
    pub fn encode(&self, as_status: bool) -> Vec<u8> {
        if !as_status {
            return match self {
                Outcome::Exited(0) => Vec::new(),
                Outcome::Exited(code) => {
                    format!("error executing remote command: command terminated with non-zero exit code: exit status {code}").into_bytes()
                }
                Outcome::Failed(message) => format!("error executing remote command: {message}").into_bytes(),
            };
        }
        let status = match self {
            Outcome::Exited(0) => json!({"metadata": {}, "status": "Success"}),
            Outcome::Exited(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("command terminated with non-zero exit code: exit status {code}"),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Outcome::Failed(message) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {message}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": message}]},
                "code": 500,
            }),
        };
        status.to_string().into_bytes()
    }
}
