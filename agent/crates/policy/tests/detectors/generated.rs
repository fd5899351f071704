//! Made-up values for each detector, the same ones in each run.

use anyhow::Result;
use bailiff_policy::Detector;

use super::Labelled;

/// Of each detector.
const POSITIVES: usize = 250;
const NEGATIVES: usize = 250;

pub(crate) fn values(detector: Detector) -> Result<Vec<Labelled>> {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ detector as u64);
    let mut values = Vec::new();
    for _ in 0..POSITIVES {
        let value = positive(detector, &mut dice);
        values.push(Labelled::parse(&dice.placed(&value))?);
    }
    for _ in 0..NEGATIVES {
        let value = negative(detector, &mut dice);
        values.push(Labelled::parse(&dice.around(&value))?);
    }
    Ok(values)
}

/// Xorshift, so that the set is the same everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or(0) % end
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        let place = self.below(of.len());
        of.get(place).copied().unwrap_or_default()
    }

    fn chars(&mut self, of: &str, count: usize) -> String {
        (0..count)
            .filter_map(|_| {
                let place = self.below(of.len());
                of.as_bytes().get(place).map(|byte| char::from(*byte))
            })
            .collect()
    }

    fn digits(&mut self, count: usize) -> String {
        self.chars("0123456789", count)
    }

    fn number(&mut self, from: usize, to: usize, width: usize) -> String {
        format!("{:0width$}", from + self.below(to - from + 1))
    }

    fn placed(&mut self, value: &str) -> String {
        self.around(&format!("«{value}»"))
    }

    fn around(&mut self, value: &str) -> String {
        match self.below(10) {
            0..=3 => value.to_owned(),
            4 => format!("see {value} there"),
            5 => format!("{{\"value\":\"{value}\",\"n\":17}}"),
            6 => format!("({value})"),
            7 => format!("a,{value},z"),
            8 => format!("note: {value}."),
            _ => format!("first line\\n{value}\\nlast line"),
        }
    }
}

const LOWER: &str = "abcdefghijklmnopqrstuvwxyz";
const UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const BASE32: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const BASE64: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const BASE64_URL: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const ALPHANUMERIC: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const HEX: &str = "0123456789abcdef";

fn positive(detector: Detector, dice: &mut Dice) -> String {
    match detector {
        Detector::Email => {
            let length = 1 + dice.below(12);
            let local = dice.chars(LOWER, length);
            let middle = dice.one(&["", ".x", "_y", "+tag", "-z", "99"]);
            let host = dice.one(&["example", "mail.example", "a-b", "x1", "sub.domain.example"]);
            let top = dice.one(&["com", "org", "net", "de", "co.uk", "io", "museum", "xn--p1ai"]);
            format!("{local}{middle}@{host}.{top}")
        }
        Detector::PaymentCard => card(dice, true),
        Detector::UsSsn => {
            let area = match dice.below(2) {
                0 => dice.number(1, 665, 3),
                _ => dice.number(667, 899, 3),
            };
            let separator = dice.one(&["-", " ", "-", "."]);
            let (group, serial) = (dice.number(1, 99, 2), dice.number(1, 9999, 4));
            format!("{area}{separator}{group}{separator}{serial}")
        }
        Detector::Iban => iban(dice, true),
        Detector::Phone => phone(dice),
        Detector::Jwt => {
            let header = dice.one(&[
                "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9",
                "eyJhbGciOiJSUzI1NiJ9",
                "eyJ0eXAiOiJKV1QiLCJhbGciOiJFUzI1NiJ9",
                "eyJraWQiOiIxIiwiYWxnIjoiRWREU0EifQ",
            ]);
            let (payload, signature) = (20 + dice.below(300), 43 + dice.below(300));
            format!(
                "{header}.eyJ{}.{}",
                dice.chars(BASE64_URL, payload),
                dice.chars(BASE64_URL, signature)
            )
        }
        Detector::PrivateKey => {
            let label = dice.one(&[
                "PRIVATE KEY",
                "RSA PRIVATE KEY",
                "EC PRIVATE KEY",
                "OPENSSH PRIVATE KEY",
            ]);
            let lines: Vec<String> = (0..=dice.below(12)).map(|_| dice.chars(BASE64, 64)).collect();
            format!(
                "-----BEGIN {label}-----\\n{}\\n-----END {label}-----",
                lines.join("\\n")
            )
        }
        Detector::CloudKey => match dice.below(5) {
            0 => format!("AKIA{}", dice.chars(BASE32, 16)),
            1 => format!("ASIA{}", dice.chars(BASE32, 16)),
            2 => format!("AIza{}", dice.chars(BASE64_URL, 35)),
            3 => format!("GOCSPX-{}", dice.chars(ALPHANUMERIC, 28)),
            _ => {
                let length = 31 + dice.below(4);
                format!(
                    "{}8Q~{}",
                    dice.chars(ALPHANUMERIC, 3),
                    dice.chars(ALPHANUMERIC, length)
                )
            }
        },
    }
}

fn negative(detector: Detector, dice: &mut Dice) -> String {
    match (detector, dice.below(6)) {
        // What other columns hold.
        (_, 0) => {
            let words = 1 + dice.below(12);
            let words: Vec<String> = (0..words)
                .map(|_| {
                    let length = 1 + dice.below(9);
                    dice.chars(LOWER, length)
                })
                .collect();
            words.join(" ")
        }
        (_, 1) => {
            let parts = [8, 4, 4, 4, 12].map(|length| dice.chars(HEX, length));
            parts.join("-")
        }
        (_, 2) => format!(
            "{}-{}-{} {}:{}:{}.{}",
            dice.number(1970, 2037, 4),
            dice.number(1, 12, 2),
            dice.number(1, 28, 2),
            dice.number(0, 23, 2),
            dice.number(0, 59, 2),
            dice.number(0, 59, 2),
            dice.digits(6)
        ),
        (Detector::Email, 3) => {
            let (a, b) = (dice.chars(LOWER, 5), dice.digits(2));
            format!("{a}@{b}.{}.{}", dice.digits(1), dice.digits(1))
        }
        (Detector::Email, 4) => format!("@{}", dice.chars(LOWER, 8)),
        (Detector::Email, _) => format!("{}@{}", dice.chars(LOWER, 4), dice.chars(LOWER, 6)),
        (Detector::PaymentCard, 3) => card(dice, false),
        (Detector::PaymentCard, 4) => {
            let length = 12 + dice.below(8);
            // No issuer begins with 1 or 7.
            format!("{}{}", dice.one(&["1", "7"]), dice.digits(length - 1))
        }
        (Detector::PaymentCard, _) => dice.digits(24),
        (Detector::UsSsn, 3) => format!(
            "{}-{}-{}",
            dice.number(900, 999, 3),
            dice.digits(2),
            dice.digits(4)
        ),
        (Detector::UsSsn, 4) => format!("{}-{}-{}", dice.digits(3), dice.digits(3), dice.digits(4)),
        (Detector::UsSsn, _) => dice.digits(9),
        (Detector::Iban, 3 | 4) => iban(dice, false),
        (Detector::Iban, _) => format!("{}{}", dice.chars(UPPER, 2), dice.digits(20)),
        (Detector::Phone, 3) => dice.digits(10),
        (Detector::Phone, 4) => {
            let parts = [(); 4].map(|()| dice.number(0, 255, 1));
            parts.join(".")
        }
        (Detector::Phone, _) => format!("{}.{}", dice.digits(3), dice.digits(9)),
        (Detector::Jwt, 3) => format!("eyJ{}", dice.chars(BASE64_URL, 60)),
        (Detector::Jwt, 4) => format!(
            "eyJ0eXAiOiJKV1QifQ.{}.{}",
            dice.chars(BASE64_URL, 40),
            dice.chars(BASE64_URL, 40)
        ),
        (Detector::Jwt, _) => format!(
            "{}.{}.{}",
            dice.chars(LOWER, 5),
            dice.chars(LOWER, 8),
            dice.chars(LOWER, 3)
        ),
        (Detector::PrivateKey, 3) => {
            let label = dice.one(&["PUBLIC KEY", "CERTIFICATE", "RSA PUBLIC KEY", "PGP MESSAGE"]);
            format!(
                "-----BEGIN {label}-----\\n{}\\n-----END {label}-----",
                dice.chars(BASE64, 64)
            )
        }
        (Detector::PrivateKey, _) => format!("ssh-ed25519 {} x", dice.chars(BASE64, 68)),
        (Detector::CloudKey, 3) => format!("AKIA{}", dice.chars(BASE32, 12)),
        (Detector::CloudKey, 4) => dice.chars(HEX, 40),
        (Detector::CloudKey, _) => dice.chars(BASE64, 40),
    }
}

/// A card's number, or one whose check digit is another.
fn card(dice: &mut Dice, right: bool) -> String {
    let (prefix, length) = match dice.below(7) {
        0 | 1 => (dice.one(&["4"]), 16),
        2 => (dice.one(&["51", "53", "55", "2221", "2720"]), 16),
        3 => (dice.one(&["34", "37"]), 15),
        4 => (dice.one(&["6011", "644", "65"]), 16),
        5 => (dice.one(&["3528", "3589"]), 16),
        _ => (dice.one(&["300", "305", "36", "38"]), 14),
    };
    let rest = dice.digits(length - prefix.len() - 1);
    let mut number = format!("{prefix}{rest}");
    let sum: u32 = number
        .bytes()
        .rev()
        .enumerate()
        .map(|(place, byte)| {
            let digit = u32::from(byte - b'0');
            match (place % 2, digit) {
                (1, digit) => digit,
                (_, digit) if digit > 4 => digit * 2 - 9,
                (_, digit) => digit * 2,
            }
        })
        .sum();
    let check = (10 - sum % 10) % 10;
    let off = if right {
        0
    } else {
        1 + u32::try_from(dice.below(9)).unwrap_or(0)
    };
    number.push(char::from_digit((check + off) % 10, 10).unwrap_or('0'));
    let separator = dice.one(&["", "", " ", "-"]);
    let groups: &[usize] = match length {
        16 => &[4, 4, 4, 4],
        15 => &[4, 6, 5],
        _ => &[4, 6, 4],
    };
    grouped(&number, groups, separator)
}

fn grouped(text: &str, groups: &[usize], separator: &str) -> String {
    let mut rest = text;
    let mut parts = Vec::new();
    for length in groups {
        let (part, after) = rest.split_at((*length).min(rest.len()));
        parts.push(part);
        rest = after;
    }
    parts.push(rest);
    parts.retain(|part| !part.is_empty());
    parts.join(separator)
}

/// An account's number, or one whose check digits are others.
fn iban(dice: &mut Dice, right: bool) -> String {
    let (country, letters, digits) = match dice.below(5) {
        0 => ("DE", 0, 18),
        1 => ("GB", 4, 14),
        2 => ("NL", 4, 10),
        3 => ("ES", 0, 20),
        _ => ("PL", 0, 24),
    };
    let account = format!("{}{}", dice.chars(UPPER, letters), dice.digits(digits));
    let remainder = format!("{account}{country}00")
        .bytes()
        .fold(0_u32, |sum, byte| match byte {
            b'0'..=b'9' => (sum * 10 + u32::from(byte - b'0')) % 97,
            _ => (sum * 100 + u32::from(byte - b'A') + 10) % 97,
        });
    let check = 98 - remainder;
    // From 02 to 98, and another one.
    let check = if right {
        check
    } else {
        (check + 1 + u32::try_from(dice.below(95)).unwrap_or(0)) % 97 + 2
    };
    let number = format!("{country}{check:02}{account}");
    let separator = dice.one(&["", " "]);
    grouped(&number, &[4; 7], separator)
}

fn phone(dice: &mut Dice) -> String {
    let separator = dice.one(&[" ", "-", "."]);
    match dice.below(6) {
        0 => {
            let code = dice.one(&["44", "49", "33", "39", "81", "353", "420"]);
            format!("+{code}{}{}", dice.number(1, 9, 1), dice.digits(8))
        }
        1 => {
            let code = dice.one(&["44", "49", "33", "39", "61", "353"]);
            format!(
                "+{code}{separator}{}{separator}{}",
                dice.number(10, 99, 2),
                dice.digits(7)
            )
        }
        2 => {
            let (area, office) = (dice.number(200, 889, 3), dice.number(220, 999, 3));
            format!(
                "{}{separator}{office}{separator}{}",
                area.replace('9', "8"),
                dice.digits(4)
            )
        }
        3 => {
            let (area, office) = (dice.number(200, 889, 3), dice.number(220, 999, 3));
            format!("({}) {office}-{}", area.replace('9', "8"), dice.digits(4))
        }
        4 => {
            let (area, office) = (dice.number(200, 889, 3), dice.number(220, 999, 3));
            format!(
                "+1{separator}{}{separator}{office}{separator}{}",
                area.replace('9', "8"),
                dice.digits(4)
            )
        }
        _ => format!("0{}{separator}{}", dice.number(11, 999, 2), dice.digits(7)),
    }
}
