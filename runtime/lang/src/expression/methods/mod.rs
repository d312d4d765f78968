//! The functions that the safe subset may call.

mod array;
mod global;
mod string;

pub(super) use global::call_global;

use super::ast::Argument;
use super::eval::Machine;
use super::value::{Js, Kind};
use crate::error::EvalError;

type Eval<T> = Result<T, EvalError>;

macro_rules! names {
    ($(#[$doc:meta])* $type:ident, $all:ident { $($text:literal => $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $type { $($variant,)* }

        /// Every name, in the order of the variants.
        pub(crate) const $all: &[&str] = &[$($text,)*];

        impl $type {
            pub(crate) fn parse(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$variant),)* _ => None }
            }

            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

names! {
    /// A method, called on whatever the chain led to.
    Method, METHOD_NAMES {
        "at" => At, "charAt" => CharAt, "charCodeAt" => CharCodeAt, "codePointAt" => CodePointAt, "concat" => Concat,
        "endsWith" => EndsWith, "every" => Every, "filter" => Filter, "find" => Find, "findIndex" => FindIndex,
        "findLast" => FindLast, "findLastIndex" => FindLastIndex, "flat" => Flat, "flatMap" => FlatMap,
        "hasOwnProperty" => HasOwnProperty, "includes" => Includes, "indexOf" => IndexOf, "join" => Join,
        "lastIndexOf" => LastIndexOf, "map" => Map, "padEnd" => PadEnd, "padStart" => PadStart, "reduce" => Reduce,
        "reduceRight" => ReduceRight, "repeat" => Repeat, "replace" => Replace, "replaceAll" => ReplaceAll,
        "slice" => Slice, "some" => Some, "split" => Split, "startsWith" => StartsWith, "substring" => Substring,
        "toFixed" => ToFixed, "toLowerCase" => ToLowerCase, "toReversed" => ToReversed, "toString" => ToString,
        "toUpperCase" => ToUpperCase, "trim" => Trim, "trimEnd" => TrimEnd, "trimStart" => TrimStart,
    }
}

impl Method {
    pub(crate) const fn takes_callback(self) -> bool {
        matches!(
            self,
            Self::Every
                | Self::Filter
                | Self::Find
                | Self::FindIndex
                | Self::FindLast
                | Self::FindLastIndex
                | Self::FlatMap
                | Self::Map
                | Self::Reduce
                | Self::ReduceRight
                | Self::Some
        )
    }

    /// Whether this evaluator knows the method with such arguments.
    pub(crate) fn accepts(self, arguments: &[Argument]) -> bool {
        // A radix is the sandbox's matter.
        self != Self::ToString || arguments.is_empty()
    }
}

names! {
    /// A function of the global object or of one of its namespaces.
    Global, GLOBAL_NAMES {
        "Boolean" => Boolean, "Number" => Number, "String" => String, "isFinite" => IsFinite, "isNaN" => IsNaN,
        "parseFloat" => ParseFloat, "parseInt" => ParseInt, "encodeURIComponent" => EncodeUriComponent,
        "Array.isArray" => ArrayIsArray, "JSON.parse" => JsonParse, "JSON.stringify" => JsonStringify,
        "Math.abs" => Abs, "Math.ceil" => Ceil, "Math.floor" => Floor, "Math.max" => Max, "Math.min" => Min,
        "Math.pow" => Pow, "Math.round" => Round, "Math.sign" => Sign, "Math.sqrt" => Sqrt, "Math.trunc" => Trunc,
        "Number.isFinite" => NumberIsFinite, "Number.isInteger" => NumberIsInteger, "Number.isNaN" => NumberIsNaN,
        "Number.isSafeInteger" => NumberIsSafeInteger, "Object.entries" => ObjectEntries,
        "Object.fromEntries" => ObjectFromEntries, "Object.hasOwn" => ObjectHasOwn, "Object.keys" => ObjectKeys,
        "Object.values" => ObjectValues,
    }
}

impl Global {
    pub(crate) fn parse_in(namespace: Option<&str>, name: &str) -> Option<Self> {
        match (namespace, name) {
            (None, name) => Self::parse(name).filter(|global| !global.name().contains('.')),
            (Some("Number"), "parseFloat") => Some(Self::ParseFloat),
            (Some("Number"), "parseInt") => Some(Self::ParseInt),
            (Some(namespace), name) => Self::parse(&format!("{namespace}.{name}")),
        }
    }

    /// Whether it can be passed by name to `map` and the like.
    pub(crate) const fn is_callback(self) -> bool {
        matches!(
            self,
            Self::Boolean
                | Self::Number
                | Self::String
                | Self::ParseFloat
                | Self::ParseInt
                | Self::IsNaN
                | Self::IsFinite
        )
    }

    /// Whether this evaluator knows the function with such arguments: `JSON` takes no replacer and no reviver here.
    pub(crate) fn accepts(self, arguments: &[Argument]) -> bool {
        match self {
            Self::JsonParse | Self::JsonStringify => matches!(arguments, [] | [Argument::One(_)]),
            _ => true,
        }
    }
}

pub(crate) fn is_namespace(name: &str) -> bool {
    matches!(name, "Math" | "Number" | "JSON" | "Object" | "Array")
}

pub(crate) fn constant(namespace: &str, name: &str) -> Option<f64> {
    Some(match (namespace, name) {
        ("Math", "PI") => std::f64::consts::PI,
        ("Math", "E") => std::f64::consts::E,
        ("Number", "MAX_SAFE_INTEGER") => 9_007_199_254_740_991.0,
        ("Number", "MIN_SAFE_INTEGER") => -9_007_199_254_740_991.0,
        ("Number", "EPSILON") => f64::EPSILON,
        ("Number", "MAX_VALUE") => f64::MAX,
        ("Number", "NaN") => f64::NAN,
        ("Number", "POSITIVE_INFINITY") => f64::INFINITY,
        ("Number", "NEGATIVE_INFINITY") => f64::NEG_INFINITY,
        _ => return None,
    })
}
