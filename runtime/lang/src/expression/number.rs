//! Numbers as ECMAScript reads, writes and rounds them.

use super::text::trim;

/// `Number::toString` of ECMA-262 with radix 10.
pub(crate) fn number_to_string(number: f64) -> String {
    if number.is_nan() {
        return "NaN".into();
    }
    if number.is_infinite() {
        return if number > 0.0 {
            "Infinity".into()
        } else {
            "-Infinity".into()
        };
    }
    if let Some(integer) = as_integer(number) {
        return integer.to_string();
    }
    let (negative, digits, point) = shortest_digits(number);
    let mut out = String::with_capacity(24);
    if negative {
        out.push('-');
    }
    let count = digits.len() as i32;
    if (1..=21).contains(&point) {
        if count <= point {
            out.push_str(&digits);
            out.extend(std::iter::repeat_n('0', (point - count) as usize));
        } else {
            out.push_str(&digits[..point as usize]);
            out.push('.');
            out.push_str(&digits[point as usize..]);
        }
    } else if (-5..=0).contains(&point) {
        out.push_str("0.");
        out.extend(std::iter::repeat_n('0', -point as usize));
        out.push_str(&digits);
    } else {
        let exponent = point - 1;
        out.push_str(&digits[..1]);
        if count > 1 {
            out.push('.');
            out.push_str(&digits[1..]);
        }
        out.push('e');
        out.push(if exponent < 0 { '-' } else { '+' });
        out.push_str(&exponent.abs().to_string());
    }
    out
}

/// The shortest digits that read back as `number`, and where the decimal point stands relative to their start.
fn shortest_digits(number: f64) -> (bool, String, i32) {
    let text = format!("{:e}", number.abs());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    (number < 0.0, digits, exponent.parse::<i32>().unwrap_or(0) + 1)
}

/// The number as an integer, when it is one that a double holds exactly; minus zero is zero.
pub(crate) fn as_integer(number: f64) -> Option<i64> {
    const LIMIT: f64 = 9_007_199_254_740_991.0;
    (number.trunc() == number && number.abs() <= LIMIT).then_some(number as i64)
}

/// `StringToNumber` of ECMA-262.
pub(crate) fn string_to_number(text: &str) -> f64 {
    let text = trim(text);
    if text.is_empty() {
        return 0.0;
    }
    let bytes = text.as_bytes();
    if bytes.len() > 2 && bytes[0] == b'0' {
        let radix = match bytes[1] {
            b'x' | b'X' => 16,
            b'o' | b'O' => 8,
            b'b' | b'B' => 2,
            _ => 0,
        };
        if radix != 0 {
            return digits_to_number(&text[2..], radix).unwrap_or(f64::NAN);
        }
    }
    match decimal_prefix(text) {
        Some((length, number)) if length == text.len() => number,
        _ => f64::NAN,
    }
}

/// Reads the digits of a whole text in a radix, rounding to the nearest double when there are too many.
pub(crate) fn digits_to_number(text: &str, radix: u32) -> Option<f64> {
    if text.is_empty() || !text.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let digits = text.trim_start_matches('0');
    if radix == 10 {
        return text.parse().ok();
    }
    if let Ok(integer) = u64::from_str_radix(if digits.is_empty() { "0" } else { digits }, radix) {
        return Some(integer as f64);
    }
    Some(big_digits_to_number(digits, radix))
}

/// Rounds once: 64 leading bits are kept, what follows is only remembered as "not zero".
fn big_digits_to_number(digits: &str, radix: u32) -> f64 {
    if !radix.is_power_of_two() {
        return digits
            .chars()
            .filter_map(|c| c.to_digit(radix))
            .fold(0.0, |sum, digit| sum * f64::from(radix) + f64::from(digit));
    }
    let width = radix.trailing_zeros();
    let (mut leading, mut dropped_bits, mut sticky) = (0u128, 0i32, false);
    for digit in digits.chars().filter_map(|c| c.to_digit(radix)) {
        if leading >> 100 == 0 {
            leading = (leading << width) | u128::from(digit);
        } else {
            dropped_bits = dropped_bits.saturating_add(width as i32);
            sticky |= digit != 0;
        }
    }
    let rounded = (leading | u128::from(sticky)) as f64;
    if dropped_bits > 2_000 {
        f64::INFINITY
    } else {
        rounded * 2f64.powi(dropped_bits)
    }
}

/// The longest prefix that is a decimal literal with a sign, or `Infinity`: its length and value.
pub(crate) fn decimal_prefix(text: &str) -> Option<(usize, f64)> {
    let bytes = text.as_bytes();
    let mut at = usize::from(matches!(bytes.first(), Some(b'+' | b'-')));
    let negative = bytes.first() == Some(&b'-');
    if text[at..].starts_with("Infinity") {
        return Some((at + 8, if negative { f64::NEG_INFINITY } else { f64::INFINITY }));
    }
    let run = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole = run(at);
    at += whole;
    let mut fraction = 0;
    if bytes.get(at) == Some(&b'.') {
        fraction = run(at + 1);
        if whole + fraction > 0 {
            at += 1 + fraction;
        }
    }
    if whole + fraction == 0 {
        return None;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let exponent = run(at + 1 + sign);
        if exponent > 0 {
            at += 1 + sign + exponent;
        }
    }
    text[..at].parse().ok().map(|number| (at, number))
}

/// `ToInt32` of ECMA-262.
pub(crate) fn to_int32(number: f64) -> i32 {
    to_uint32(number) as i32
}

/// `ToUint32` of ECMA-262.
pub(crate) fn to_uint32(number: f64) -> u32 {
    if !number.is_finite() {
        return 0;
    }
    number.trunc().rem_euclid(4_294_967_296.0) as u32
}

/// `ToIntegerOrInfinity` of ECMA-262.
pub(crate) fn to_integer(number: f64) -> f64 {
    if number.is_nan() { 0.0 } else { number.trunc() + 0.0 }
}

/// `Number::exponentiate` of ECMA-262, which differs from IEEE 754 where the base is one.
pub(crate) fn power(base: f64, exponent: f64) -> f64 {
    if exponent.is_nan() || (base.abs() == 1.0 && exponent.is_infinite()) {
        return f64::NAN;
    }
    base.powf(exponent)
}

/// `Math.round`: ties go up, and the sign of zero is kept.
pub(crate) fn round(number: f64) -> f64 {
    if !number.is_finite() {
        return number;
    }
    let floor = number.floor();
    let rounded = if number - floor >= 0.5 { floor + 1.0 } else { floor };
    if rounded == 0.0 { 0f64.copysign(number) } else { rounded }
}

/// `Number.prototype.toFixed` for `digits` from 0 to 100: exact, ties away from zero.
pub(crate) fn to_fixed(number: f64, digits: usize) -> String {
    if !number.is_finite() || number.abs() >= 1e21 {
        return number_to_string(number);
    }
    let magnitude = number.abs();
    let scaled = magnitude * 2f64.powi(digits as i32 + 1);
    let mut text = format!("{magnitude:.digits$}");
    // Rust rounds exact ties to even. A tie has digits + 1 decimals, hence as many binary places.
    if scaled.is_finite() && scaled.fract() == 0.0 {
        let exact = format!("{magnitude:.*}", digits + 1);
        if let Some(kept) = exact.strip_suffix('5') {
            text = increment_decimal(kept.strip_suffix('.').unwrap_or(kept));
        }
    }
    let is_zero = text.bytes().all(|byte| matches!(byte, b'0' | b'.'));
    if number < 0.0 && !(is_zero && magnitude == 0.0) {
        format!("-{text}")
    } else {
        text
    }
}

/// Adds one unit in the last place of a decimal text.
fn increment_decimal(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for byte in bytes.iter_mut().rev() {
        match byte {
            b'9' => *byte = b'0',
            b'.' => {}
            digit => {
                *digit += 1;
                return String::from_utf8_lossy(&bytes).into_owned();
            }
        }
    }
    format!("1{}", String::from_utf8_lossy(&bytes))
}
