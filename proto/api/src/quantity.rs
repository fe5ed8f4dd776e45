//! Amounts of a resource: `100m`, `1Gi`, `1e3`.
//!
//! Follows `k8s.io/apimachinery/pkg/api/resource.Quantity`: fixed point to a billionth, rounded away from zero,
//! at most 2^63-1; the canonical form has no fraction and the largest suffix that loses nothing.

use std::cmp::Ordering;
use std::fmt;

const NANO: i128 = 1_000_000_000;
const MAX: i128 = i64::MAX as i128 * NANO;

/// How an amount is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Binary,
    Decimal,
    Exponent,
}

/// An amount, in billionths.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Text that is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)]
pub struct BadQuantity;

const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/// From 10^-9 in steps of a thousand.
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

impl Quantity {
    pub const ZERO: Quantity = Quantity {
        nanos: 0,
        format: Format::Decimal,
    };

    pub fn parse(text: &str) -> Result<Quantity, BadQuantity> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || text.len() > 128 {
            return Err(BadQuantity);
        }
        let (base, exponent, format) = scale(suffix)?;
        let nanos = product(whole, fraction, base, exponent);
        Ok(Quantity {
            nanos: if negative { -nanos } else { nanos },
            format,
        })
    }

    pub fn from_value(value: i64) -> Quantity {
        Quantity {
            nanos: i128::from(value) * NANO,
            format: Format::Decimal,
        }
    }

    pub fn from_bytes(value: i64) -> Quantity {
        Quantity {
            nanos: i128::from(value) * NANO,
            format: Format::Binary,
        }
    }

    pub fn from_milli(milli: i64) -> Quantity {
        Quantity {
            nanos: i128::from(milli) * (NANO / 1000),
            format: Format::Decimal,
        }
    }

    /// Rounded up to whole units.
    pub fn value(&self) -> i64 {
        clamp(divide_up(self.nanos, NANO))
    }

    /// Rounded up to thousandths.
    pub fn milli(&self) -> i64 {
        clamp(divide_up(self.nanos, NANO / 1000))
    }

    pub fn nanos(&self) -> i128 {
        self.nanos
    }

    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// The sum, written as `self` is (as `other` when `self` is zero).
    pub fn add(&self, other: &Quantity) -> Quantity {
        let format = if self.is_zero() {
            other.format
        } else {
            self.format
        };
        Quantity {
            nanos: (self.nanos + other.nanos).clamp(-MAX, MAX),
            format,
        }
    }

    pub fn sub(&self, other: &Quantity) -> Quantity {
        let format = if self.is_zero() {
            other.format
        } else {
            self.format
        };
        Quantity {
            nanos: (self.nanos - other.nanos).clamp(-MAX, MAX),
            format,
        }
    }

    /// As upstream's server writes it back: `0.5` -> `500m`, `1024Mi` -> `1Gi`.
    pub fn canonical(&self) -> String {
        if self.nanos == 0 {
            return "0".to_owned();
        }
        let binary = self.format == Format::Binary
            && self.nanos % NANO == 0
            && self.nanos.abs() >= 1024 * NANO;
        if binary {
            let (mut value, mut step) = (self.nanos / NANO, 0);
            while value % 1024 == 0 && step + 1 < BINARY.len() {
                value /= 1024;
                step += 1;
            }
            return format!("{value}{}", BINARY[step]);
        }
        let (mut value, mut step) = (self.nanos, 0);
        while value % 1000 == 0 && step + 1 < DECIMAL.len() {
            value /= 1000;
            step += 1;
        }
        match self.format {
            Format::Exponent if step != 3 => format!("{value}e{}", step as i32 * 3 - 9),
            _ => format!("{value}{}", DECIMAL[step]),
        }
    }
}

/// The canonical form of `text`.
pub fn canonical(text: &str) -> Result<String, BadQuantity> {
    Ok(Quantity::parse(text)?.canonical())
}

/// A k8s-openapi quantity, decoded.
impl TryFrom<&k8s_openapi::apimachinery::pkg::api::resource::Quantity> for Quantity {
    type Error = BadQuantity;

    fn try_from(
        quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity,
    ) -> Result<Self, BadQuantity> {
        Quantity::parse(&quantity.0)
    }
}

impl From<Quantity> for k8s_openapi::apimachinery::pkg::api::resource::Quantity {
    fn from(quantity: Quantity) -> Self {
        k8s_openapi::apimachinery::pkg::api::resource::Quantity(quantity.canonical())
    }
}

fn scale(suffix: &str) -> Result<(i128, i32, Format), BadQuantity> {
    if let Some(step) = DECIMAL.iter().position(|name| *name == suffix) {
        return Ok((10, step as i32 * 3 - 9, Format::Decimal));
    }
    if let Some(step) = BINARY.iter().position(|name| *name == suffix) {
        return Ok((1024, step as i32, Format::Binary));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(BadQuantity)?;
    Ok((
        10,
        exponent.parse().map_err(|_| BadQuantity)?,
        Format::Exponent,
    ))
}

/// `whole.fraction * base^exponent` in billionths, rounded up, at most [`MAX`].
fn product(whole: &str, fraction: &str, base: i128, exponent: i32) -> i128 {
    // 128 characters at most; digits that cannot matter are folded into "a little more".
    let mut digits: i128 = 0;
    let (mut shift, mut inexact) = (0i32, false);
    for (at, byte) in whole.bytes().chain(fraction.bytes()).enumerate() {
        if digits < 1_000_000_000_000_000_000_000 {
            digits = digits * 10 + i128::from(byte - b'0');
            shift += i32::from(at >= whole.len());
        } else {
            inexact |= byte != b'0';
            shift -= i32::from(at < whole.len());
        }
    }
    let mut ten = 9 - shift;
    if base == 10 {
        ten = ten.saturating_add(exponent);
    } else {
        for _ in 0..exponent {
            digits = digits.saturating_mul(1024).min(i128::MAX / 1024 / 1024);
        }
    }
    while ten > 0 && digits != 0 && digits < MAX {
        digits *= 10;
        ten -= 1;
    }
    while ten < 0 && digits != 0 {
        inexact |= digits % 10 != 0;
        digits /= 10;
        ten += 1;
    }
    (digits + i128::from(inexact)).min(MAX)
}

fn divide_up(nanos: i128, unit: i128) -> i128 {
    let quotient = nanos / unit;
    if nanos % unit == 0 {
        quotient
    } else {
        quotient + nanos.signum()
    }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms_are_upstreams() {
        for (text, canonical, value, milli) in [
            ("0.5", "500m", 1, 500),
            ("1024Mi", "1Gi", 1 << 30, (1 << 30) * 1000),
            ("1000m", "1", 1, 1000),
            ("100m", "100m", 1, 100),
            ("1000", "1k", 1000, 1_000_000),
            ("0", "0", 0, 0),
            ("0Gi", "0", 0, 0),
            ("1e3", "1e3", 1000, 1_000_000),
            ("100", "100", 100, 100_000),
            ("1.5Gi", "1536Mi", 1_610_612_736, 1_610_612_736_000),
            ("0.5Ki", "512", 512, 512_000),
            ("1E", "1E", 1_000_000_000_000_000_000, i64::MAX),
            ("-1.5", "-1500m", -2, -1500),
            (".5", "500m", 1, 500),
            ("5.", "5", 5, 5000),
            ("+1", "1", 1, 1000),
            ("0.1n", "1n", 1, 1),
            ("129M", "129M", 129_000_000, 129_000_000_000),
            ("128974848", "128974848", 128_974_848, 128_974_848_000),
            ("123Mi", "123Mi", 128_974_848, 128_974_848_000),
            ("12e6", "12e6", 12_000_000, 12_000_000_000),
            ("1.0", "1", 1, 1000),
            (
                "100000000000000000000",
                "9223372036854775807",
                i64::MAX,
                i64::MAX,
            ),
            ("1e-3", "1e-3", 1, 1),
            ("0.0625Ki", "64", 64, 64_000),
        ] {
            let quantity = Quantity::parse(text).unwrap();
            assert_eq!(
                (
                    quantity.canonical().as_str(),
                    quantity.value(),
                    quantity.milli()
                ),
                (canonical, value, milli),
                "{text}"
            );
            assert_eq!(
                super::canonical(canonical).unwrap(),
                canonical,
                "a fixed point"
            );
        }
        for bad in [
            "", "m", "1x", "1.2.3", "1 Gi", "Gi", "--1", "1ki", "1e", "1e1.5", ".",
        ] {
            assert_eq!(Quantity::parse(bad), Err(BadQuantity), "{bad}");
        }
    }

    #[test]
    fn amounts_compare_and_add() {
        let of = |text| Quantity::parse(text).unwrap();
        assert_eq!(of("1"), of("1000m"));
        assert!(of("1Gi") > of("1G"));
        assert_eq!(of("100Mi").add(&of("924Mi")).canonical(), "1Gi");
        assert_eq!(Quantity::ZERO.add(&of("1Ki")).canonical(), "1Ki");
    }
}
