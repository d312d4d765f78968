//! Global functions and those of `Math`, `Number`, `JSON`, `Object` and `Array`.

use serde_json::Value;

use super::super::number::{as_integer, decimal_prefix, digits_to_number, power, round, to_int32};
use super::super::output::json_number;
use super::super::text;
use super::super::value::Text;
use super::{Eval, EvalError, Global, Js, Machine};

/// Calls a function with its arguments evaluated.
pub(crate) fn call_global<'s>(machine: &mut Machine<'s>, global: Global, arguments: &[Js<'s>]) -> Eval<Js<'s>> {
    let first = arguments.first().cloned().unwrap_or(Js::Undefined);
    Ok(match global {
        Global::Boolean => Js::Bool(first.truthy()),
        Global::Number if arguments.is_empty() => Js::Number(0.0),
        Global::Number => Js::Number(machine.to_number(&first)?),
        Global::String if arguments.is_empty() => Js::Text(Text::Borrowed("")),
        Global::String => {
            let text = machine.to_text(&first)?.into_owned();
            machine.made_text(text)?
        }
        Global::IsFinite => Js::Bool(machine.to_number(&first)?.is_finite()),
        Global::IsNaN => Js::Bool(machine.to_number(&first)?.is_nan()),
        Global::ParseFloat => {
            let text = machine.to_text(&first)?.into_owned();
            machine.charge(text.len())?;
            Js::Number(decimal_prefix(text::trim(&text)).map_or(f64::NAN, |(_, number)| number))
        }
        Global::ParseInt => parse_int(machine, &first, arguments.get(1))?,
        Global::EncodeUriComponent => {
            let text = machine.to_text(&first)?.into_owned();
            machine.charge(text.len() * 3)?;
            machine.made_text(percent_encode(&text))?
        }
        Global::ArrayIsArray => Js::Bool(matches!(first, Js::List(_))),
        Global::JsonParse => {
            let text = machine.to_text(&first)?.into_owned();
            machine.charge(text.len() * 4)?;
            let value: Value =
                serde_json::from_str(&text).map_err(|error| EvalError::new(format!("invalid JSON: {error}")))?;
            owned(machine, value)?
        }
        Global::JsonStringify => match machine.stringify(&first)? {
            Some(text) => machine.made_text(text)?,
            None => Js::Undefined,
        },
        Global::Abs => Js::Number(machine.to_number(&first)?.abs()),
        Global::Ceil => Js::Number(machine.to_number(&first)?.ceil()),
        Global::Floor => Js::Number(machine.to_number(&first)?.floor()),
        Global::Trunc => Js::Number(machine.to_number(&first)?.trunc()),
        Global::Round => Js::Number(round(machine.to_number(&first)?)),
        Global::Sqrt => Js::Number(machine.to_number(&first)?.sqrt()),
        Global::Sign => {
            let number = machine.to_number(&first)?;
            Js::Number(if number == 0.0 || number.is_nan() {
                number
            } else {
                number.signum()
            })
        }
        Global::Pow => {
            let base = machine.to_number(&first)?;
            let exponent = machine.to_number(arguments.get(1).unwrap_or(&Js::Undefined))?;
            Js::Number(power(base, exponent))
        }
        Global::Max => extreme(machine, arguments, f64::NEG_INFINITY)?,
        Global::Min => extreme(machine, arguments, f64::INFINITY)?,
        Global::NumberIsFinite => Js::Bool(is_number(&first, f64::is_finite)),
        Global::NumberIsInteger => Js::Bool(is_number(&first, |number| {
            number.is_finite() && number.trunc() == number
        })),
        Global::NumberIsNaN => Js::Bool(is_number(&first, f64::is_nan)),
        Global::NumberIsSafeInteger => Js::Bool(is_number(&first, |number| as_integer(number).is_some())),
        Global::ObjectKeys => {
            let keys = machine.own_keys(&first)?;
            machine.made_list(keys.into_iter().map(Js::Text).collect())?
        }
        Global::ObjectValues => {
            let mut values = Vec::new();
            for key in machine.own_keys(&first)? {
                values.push(machine.get(&first, key.as_str())?);
            }
            machine.made_list(values)?
        }
        Global::ObjectEntries => {
            let mut entries = Vec::new();
            for key in machine.own_keys(&first)? {
                let value = machine.get(&first, key.as_str())?;
                entries.push(machine.made_list(vec![Js::Text(key), value])?);
            }
            machine.made_list(entries)?
        }
        Global::ObjectFromEntries => from_entries(machine, &first)?,
        Global::ObjectHasOwn => {
            if first.is_nullish() {
                return Err(EvalError::new("cannot convert undefined or null to object"));
            }
            let key = machine.owned_key(arguments.get(1).unwrap_or(&Js::Undefined))?;
            Js::Bool(machine.has_own(&first, key.as_str())?)
        }
    })
}

fn is_number(value: &Js<'_>, accepts: fn(f64) -> bool) -> bool {
    match value {
        Js::Number(number) => accepts(*number),
        Js::Digits(number) => number.as_f64().is_some_and(accepts),
        _ => false,
    }
}

fn extreme<'s>(machine: &mut Machine<'s>, arguments: &[Js<'s>], start: f64) -> Eval<Js<'s>> {
    let wants_max = start < 0.0;
    let mut best = start;
    let mut has_nan = false;
    for argument in arguments {
        machine.step()?;
        let number = machine.to_number(argument)?;
        has_nan |= number.is_nan();
        // Plus zero is more than minus zero here.
        let beats = if number == best {
            number.is_sign_positive() == wants_max
        } else {
            (number > best) == wants_max
        };
        if beats {
            best = number;
        }
    }
    Ok(Js::Number(if has_nan { f64::NAN } else { best }))
}

fn parse_int<'s>(machine: &mut Machine<'s>, value: &Js<'s>, radix: Option<&Js<'s>>) -> Eval<Js<'s>> {
    let text = machine.to_text(value)?.into_owned();
    machine.charge(text.len())?;
    let mut radix = match radix {
        None => 0,
        Some(radix) => to_int32(machine.to_number(radix)?),
    };
    let trimmed = text::trim(&text);
    let negative = trimmed.starts_with('-');
    let mut digits = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
    if radix != 0 && !(2..=36).contains(&radix) {
        return Ok(Js::Number(f64::NAN));
    }
    if matches!(radix, 0 | 16)
        && let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"))
    {
        digits = hex;
        radix = 16;
    }
    let radix = if radix == 0 { 10 } else { radix as u32 };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    let number = digits_to_number(&digits[..end], radix).unwrap_or(f64::NAN);
    Ok(Js::Number(if negative { -number } else { number }))
}

/// What `encodeURIComponent` leaves as it is: letters, digits and `-_.!~*'()`.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// JSON that nothing outlives, as values of the expression.
fn owned<'s>(machine: &mut Machine<'s>, value: Value) -> Eval<Js<'s>> {
    machine.step()?;
    Ok(match value {
        Value::Null => Js::Null,
        Value::Bool(value) => Js::Bool(value),
        Value::Number(number) => {
            let double = number.as_f64().unwrap_or(f64::NAN);
            debug_assert!(json_number(double) != Value::Null, "JSON has finite numbers only");
            Js::Number(double)
        }
        Value::String(text) => machine.made_text(text)?,
        Value::Array(items) => {
            let items = items
                .into_iter()
                .map(|item| owned(machine, item))
                .collect::<Eval<Vec<_>>>()?;
            machine.made_list(items)?
        }
        Value::Object(members) => {
            let mut entries = Vec::with_capacity(members.len());
            for (key, value) in members {
                machine.charge(key.len())?;
                entries.push((Text::Owned(key.into()), owned(machine, value)?));
            }
            machine.made_object(entries)?
        }
    })
}

fn from_entries<'s>(machine: &mut Machine<'s>, value: &Js<'s>) -> Eval<Js<'s>> {
    let mut items = Vec::new();
    machine.spread(value, &mut items)?;
    let mut entries = Vec::with_capacity(items.len());
    for entry in items {
        machine.step()?;
        if !Machine::is_object(&entry) {
            return Err(EvalError::new("not an object"));
        }
        let key = machine.get(&entry, "0")?;
        let value = machine.get(&entry, "1")?;
        entries.push((machine.owned_key(&key)?, value));
    }
    machine.made_object(entries)
}
