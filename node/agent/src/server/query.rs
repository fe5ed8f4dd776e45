//! A request's query: names may repeat. Pure.

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Self(pairs.collect())
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn all(&self, name: &str) -> Vec<String> {
        self.0
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
            .collect()
    }

    /// True for `1` and `true`, as Go reads them.
    pub fn flag(&self, name: &str) -> bool {
        matches!(
            self.text(name),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True")
        )
    }

    /// None when absent.
    pub fn number(&self, name: &str) -> Result<Option<i64>, String> {
        match self.text(name) {
            None | Some("") => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_| format!("invalid value for {name}: {text:?}")),
        }
    }
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = || {
            bytes
                .get(at + 1..at + 3)
                .and_then(|pair| std::str::from_utf8(pair).ok())
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
        };
        match bytes[at] {
            b'%' => match hex() {
                Some(byte) => {
                    out.push(byte);
                    at += 2;
                }
                None => out.push(b'%'),
            },
            b'+' => out.push(b' '),
            byte => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases() {
        let query = Query::parse(
            "command=sh&command=-c&command=echo%20a%26b+c&tty=1&n=5&bad=x&empty=&pc=%zz",
        );
        assert_eq!(query.all("command"), ["sh", "-c", "echo a&b c"]);
        assert!(query.flag("tty") && !query.flag("stdin"));
        assert_eq!(
            (
                query.number("n"),
                query.number("none"),
                query.number("empty")
            ),
            (Ok(Some(5)), Ok(None), Ok(None))
        );
        assert!(query.number("bad").is_err());
        assert_eq!(query.text("pc"), Some("%zz"));
    }
}
