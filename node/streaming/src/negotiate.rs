//! Which protocol a streaming request is answered with: pure, from its headers.

use std::fmt;

use base64::Engine;
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Command,
    PortForward,
}

/// How bytes are framed, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    WebSocket {
        base64: bool,
        close_signal: bool,
        status: bool,
    },
    Spdy {
        status: bool,
    },
    /// SPDY inside a WebSocket.
    Tunnel,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub transport: Transport,
    /// The sub-protocol, echoed to the client.
    pub protocol: String,
    websocket_accept: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub status: StatusCode,
    pub message: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

const STREAM_PROTOCOL: &str = "x-stream-protocol-version";

/// (name, transport), in our order of preference.
const COMMAND_WEBSOCKET: &[(&str, Transport)] = &[
    (
        "v5.channel.k8s.io",
        Transport::WebSocket {
            base64: false,
            close_signal: true,
            status: true,
        },
    ),
    (
        "v4.channel.k8s.io",
        Transport::WebSocket {
            base64: false,
            close_signal: false,
            status: true,
        },
    ),
    (
        "base64.v4.channel.k8s.io",
        Transport::WebSocket {
            base64: true,
            close_signal: false,
            status: true,
        },
    ),
    (
        "v4.base64.channel.k8s.io",
        Transport::WebSocket {
            base64: true,
            close_signal: false,
            status: true,
        },
    ),
    (
        "channel.k8s.io",
        Transport::WebSocket {
            base64: false,
            close_signal: false,
            status: false,
        },
    ),
    (
        "base64.channel.k8s.io",
        Transport::WebSocket {
            base64: true,
            close_signal: false,
            status: false,
        },
    ),
];
const COMMAND_SPDY: &[(&str, Transport)] = &[
    ("v5.channel.k8s.io", Transport::Spdy { status: true }),
    ("v4.channel.k8s.io", Transport::Spdy { status: true }),
    ("v3.channel.k8s.io", Transport::Spdy { status: false }),
    ("v2.channel.k8s.io", Transport::Spdy { status: false }),
    ("channel.k8s.io", Transport::Spdy { status: false }),
];
const FORWARD_WEBSOCKET: &[(&str, Transport)] =
    &[("SPDY/3.1+portforward.k8s.io", Transport::Tunnel)];
const FORWARD_SPDY: &[(&str, Transport)] =
    &[("portforward.k8s.io", Transport::Spdy { status: false })];

pub fn negotiate(headers: &HeaderMap, purpose: Purpose) -> Result<Accepted, Refused> {
    let refuse = |status, message: String| Err(Refused { status, message });
    if !has_token(headers, CONNECTION.as_str(), "upgrade") {
        return refuse(StatusCode::BAD_REQUEST, "Upgrade request required".into());
    }
    let (table, asked) = if has_token(headers, UPGRADE.as_str(), "websocket") {
        let table = match purpose {
            Purpose::Command => COMMAND_WEBSOCKET,
            Purpose::PortForward => FORWARD_WEBSOCKET,
        };
        (table, tokens(headers, SEC_WEBSOCKET_PROTOCOL.as_str()))
    } else if has_token(headers, UPGRADE.as_str(), "spdy/3.1") {
        let table = match purpose {
            Purpose::Command => COMMAND_SPDY,
            Purpose::PortForward => FORWARD_SPDY,
        };
        (table, tokens(headers, STREAM_PROTOCOL))
    } else {
        return refuse(
            StatusCode::BAD_REQUEST,
            "unable to upgrade: missing upgrade headers in request".into(),
        );
    };
    let Some((name, transport)) = table
        .iter()
        .find(|(name, _)| asked.iter().any(|asked| asked == name))
    else {
        let ours: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
        return refuse(
            StatusCode::FORBIDDEN,
            format!(
                "unable to upgrade: unable to negotiate protocol: client supports {asked:?}, server accepts {ours:?}"
            ),
        );
    };
    let websocket_accept = match transport {
        Transport::Spdy { .. } => None,
        _ => {
            let key = headers
                .get(SEC_WEBSOCKET_KEY)
                .map(HeaderValue::as_bytes)
                .unwrap_or_default();
            let valid = base64::engine::general_purpose::STANDARD
                .decode(key)
                .is_ok_and(|key| key.len() == 16);
            if !valid || !has_token(headers, "sec-websocket-version", "13") {
                return refuse(StatusCode::BAD_REQUEST, "bad WebSocket handshake".into());
            }
            Some(derive_accept_key(key))
        }
    };
    Ok(Accepted {
        transport: *transport,
        protocol: name.to_string(),
        websocket_accept,
    })
}

impl Accepted {
    /// The 101, without a body.
    pub fn response(&self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        let mut set = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        set("connection", "Upgrade");
        match &self.websocket_accept {
            Some(accept) => {
                set("upgrade", "websocket");
                set("sec-websocket-accept", accept);
                set("sec-websocket-protocol", &self.protocol);
            }
            None => {
                set("upgrade", "SPDY/3.1");
                set(STREAM_PROTOCOL, &self.protocol);
            }
        }
        response
    }
}

fn tokens(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|token| token.trim().to_owned())
        .filter(|token| !token.is_empty())
        .collect()
}

fn has_token(headers: &HeaderMap, name: &str, token: &str) -> bool {
    tokens(headers, name)
        .iter()
        .any(|have| have.eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in list {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn cases() {
        let ws = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
        ];
        let with = |extra: &[(&'static str, &'static str)]| headers(&[&ws[..], extra].concat());
        let spdy = |extra: &[(&'static str, &'static str)]| {
            headers(&[&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")], extra].concat())
        };
        for (headers, purpose, want) in [
            (
                with(&[(
                    "sec-websocket-protocol",
                    "v4.channel.k8s.io, v5.channel.k8s.io",
                )]),
                Purpose::Command,
                Ok("v5.channel.k8s.io"),
            ),
            (
                with(&[("sec-websocket-protocol", "v9")]),
                Purpose::Command,
                Err(403),
            ),
            (
                with(&[("sec-websocket-protocol", "SPDY/3.1+portforward.k8s.io")]),
                Purpose::PortForward,
                Ok("SPDY/3.1+portforward.k8s.io"),
            ),
            (
                spdy(&[
                    ("x-stream-protocol-version", "v3.channel.k8s.io"),
                    ("x-stream-protocol-version", "v4.channel.k8s.io"),
                ]),
                Purpose::Command,
                Ok("v4.channel.k8s.io"),
            ),
            (
                spdy(&[("x-stream-protocol-version", "portforward.k8s.io")]),
                Purpose::PortForward,
                Ok("portforward.k8s.io"),
            ),
            (headers(&[]), Purpose::Command, Err(400)),
        ] {
            let got = negotiate(&headers, purpose);
            match want {
                Ok(protocol) => assert_eq!(got.unwrap().protocol, protocol),
                Err(status) => assert_eq!(got.unwrap_err().status.as_u16(), status),
            }
        }
        let accepted = negotiate(
            &with(&[("sec-websocket-protocol", "v5.channel.k8s.io")]),
            Purpose::Command,
        )
        .unwrap();
        // RFC 6455's own example.
        assert_eq!(
            accepted.response().headers()["sec-websocket-accept"],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }
}
