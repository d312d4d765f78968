//! What travels between the engine and a sandbox child: length-prefixed frames, integers little-endian.

use std::fmt;

/// Version of this protocol; both ends are the same binary, so a difference means a wrong `program`.
pub(crate) const PROTOCOL_VERSION: u64 = 2;
/// Largest frame in either direction, in bytes.
pub(crate) const FRAME_BYTES_MAX: usize = 96 * 1024 * 1024;

/// Milliseconds of the machine's monotonic clock, which parent and children share.
pub(crate) fn monotonic_ms() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid, writable timespec.
    #[allow(unsafe_code)]
    let status = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    debug_assert_eq!(status, 0, "the monotonic clock always exists");
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// What a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ProgramKind {
    /// Code that defines a function, called with input and context.
    Function = 0,
    /// One expression over a scope.
    Expression = 1,
    /// A Jinja template over a scope, which gives a text.
    TextTemplate = 2,
    /// A Jinja template over a scope, which gives a JSON document.
    JsonTemplate = 3,
}

/// Engine to child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    /// Introduces a program; its calls name it by number.
    Define {
        program: u64,
        kind: ProgramKind,
        context: &'a str,
        name: &'a str,
        source: &'a str,
    },
    /// Calls a program. `input` is the input or the scope, `context` is empty for expressions.
    Call {
        call: u64,
        program: u64,
        deadline_ms: u64,
        input: &'a str,
        context: &'a str,
    },
    /// The caller of a call that has not started no longer wants it.
    Cancel { call: u64 },
    /// Forgets every program and context.
    Reset,
    /// Compiles code and looks for its function; keeps nothing.
    Check {
        call: u64,
        deadline_ms: u64,
        name: &'a str,
        source: &'a str,
    },
    /// Compiles expressions, a JSON array of texts, and runs none; answered with an array of problems or nulls.
    CheckExpressions {
        call: u64,
        deadline_ms: u64,
        sources: &'a str,
    },
    /// Tries what the lock must refuse; answered only by a child that was started for it.
    Probe { call: u64 },
}

/// Child to engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Response {
    /// The child is locked and ready; a JSON object says how well.
    Hello { version: u64, lockdown: String },
    /// A call ended.
    Done {
        call: u64,
        logs: Vec<(String, String)>,
        result: Result<String, Fault>,
    },
    /// A call was taken back before it began. One that had begun is answered with `Done`: every call has one answer.
    TakenBack { call: u64 },
}

/// Why a call failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) details: Option<String>,
    pub(crate) stack: Option<String>,
    pub(crate) retryable: bool,
    pub(crate) retry_after_ms: Option<u64>,
}

impl Fault {
    pub(crate) fn new(code: &str, message: impl Into<String>, retryable: bool) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            retryable,
            ..Self::default()
        }
    }
}

/// A frame that does not make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("malformed sandbox frame")
    }
}

/// Appends a frame whose body `write` writes.
fn frame(out: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.push(kind);
    write(out);
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_u64(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn put_optional(out: &mut Vec<u8>, text: Option<&str>) {
    out.push(u8::from(text.is_some()));
    put_text(out, text.unwrap_or(""));
}

/// Splits the first whole frame off `bytes`: its length with the prefix, and its body.
pub(crate) fn split(bytes: &[u8]) -> Result<Option<(usize, &[u8])>, Malformed> {
    let Some(prefix) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*prefix) as usize;
    if length == 0 || length > FRAME_BYTES_MAX {
        return Err(Malformed);
    }
    Ok(bytes.get(4..4 + length).map(|body| (4 + length, body)))
}

/// Reads the fields of a frame.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.bytes(1)?[0])
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.bytes(8)?.try_into().map_err(|_| Malformed)?))
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = usize::try_from(self.u64()?).map_err(|_| Malformed)?;
        std::str::from_utf8(self.bytes(length)?).map_err(|_| Malformed)
    }

    fn optional(&mut self) -> Result<Option<String>, Malformed> {
        let present = self.byte()? == 1;
        let text = self.text()?;
        Ok(present.then(|| text.to_owned()))
    }
}

impl<'a> Request<'a> {
    /// Appends the frame.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Define {
                program,
                kind,
                context,
                name,
                source,
            } => frame(out, 1, |out| {
                put_u64(out, program);
                out.push(kind as u8);
                put_text(out, context);
                put_text(out, name);
                put_text(out, source);
            }),
            Self::Call {
                call,
                program,
                deadline_ms,
                input,
                context,
            } => frame(out, 2, |out| {
                put_u64(out, call);
                put_u64(out, program);
                put_u64(out, deadline_ms);
                put_text(out, input);
                put_text(out, context);
            }),
            Self::Cancel { call } => frame(out, 3, |out| put_u64(out, call)),
            Self::Reset => frame(out, 4, |_| ()),
            Self::Check {
                call,
                deadline_ms,
                name,
                source,
            } => frame(out, 5, |out| {
                put_u64(out, call);
                put_u64(out, deadline_ms);
                put_text(out, name);
                put_text(out, source);
            }),
            Self::Probe { call } => frame(out, 6, |out| put_u64(out, call)),
            Self::CheckExpressions {
                call,
                deadline_ms,
                sources,
            } => frame(out, 7, |out| {
                put_u64(out, call);
                put_u64(out, deadline_ms);
                put_text(out, sources);
            }),
        }
    }

    /// Reads the body of a frame.
    pub(crate) fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(body);
        Ok(match reader.byte()? {
            1 => Self::Define {
                program: reader.u64()?,
                kind: match reader.byte()? {
                    0 => ProgramKind::Function,
                    1 => ProgramKind::Expression,
                    2 => ProgramKind::TextTemplate,
                    3 => ProgramKind::JsonTemplate,
                    _ => return Err(Malformed),
                },
                context: reader.text()?,
                name: reader.text()?,
                source: reader.text()?,
            },
            2 => Self::Call {
                call: reader.u64()?,
                program: reader.u64()?,
                deadline_ms: reader.u64()?,
                input: reader.text()?,
                context: reader.text()?,
            },
            3 => Self::Cancel { call: reader.u64()? },
            4 => Self::Reset,
            5 => Self::Check {
                call: reader.u64()?,
                deadline_ms: reader.u64()?,
                name: reader.text()?,
                source: reader.text()?,
            },
            6 => Self::Probe { call: reader.u64()? },
            7 => Self::CheckExpressions {
                call: reader.u64()?,
                deadline_ms: reader.u64()?,
                sources: reader.text()?,
            },
            _ => return Err(Malformed),
        })
    }
}

impl Response {
    /// Appends the frame.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello { version, lockdown } => frame(out, 1, |out| {
                put_u64(out, *version);
                put_text(out, lockdown);
            }),
            Self::Done { call, logs, result } => frame(out, 2, |out| {
                put_u64(out, *call);
                put_u64(out, logs.len() as u64);
                for (level, message) in logs {
                    put_text(out, level);
                    put_text(out, message);
                }
                match result {
                    Ok(output) => {
                        out.push(1);
                        put_text(out, output);
                    }
                    Err(fault) => {
                        out.push(0);
                        put_text(out, &fault.code);
                        put_text(out, &fault.message);
                        put_optional(out, fault.details.as_deref());
                        put_optional(out, fault.stack.as_deref());
                        out.push(u8::from(fault.retryable));
                        out.push(u8::from(fault.retry_after_ms.is_some()));
                        put_u64(out, fault.retry_after_ms.unwrap_or(0));
                    }
                }
            }),
            Self::TakenBack { call } => frame(out, 3, |out| put_u64(out, *call)),
        }
    }

    /// Reads the body of a frame.
    pub(crate) fn read(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(body);
        match reader.byte()? {
            1 => Ok(Self::Hello {
                version: reader.u64()?,
                lockdown: reader.text()?.to_owned(),
            }),
            2 => {
                let call = reader.u64()?;
                let mut logs = Vec::new();
                for _ in 0..reader.u64()? {
                    logs.push((reader.text()?.to_owned(), reader.text()?.to_owned()));
                }
                let result = if reader.byte()? == 1 {
                    Ok(reader.text()?.to_owned())
                } else {
                    Err(Fault {
                        code: reader.text()?.to_owned(),
                        message: reader.text()?.to_owned(),
                        details: reader.optional()?,
                        stack: reader.optional()?,
                        retryable: reader.byte()? == 1,
                        retry_after_ms: {
                            let present = reader.byte()? == 1;
                            let ms = reader.u64()?;
                            present.then_some(ms)
                        },
                    })
                };
                Ok(Self::Done { call, logs, result })
            }
            3 => Ok(Self::TakenBack { call: reader.u64()? }),
            _ => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn requests_and_responses_survive_the_wire() {
        let requests = [
            Request::Define {
                program: 1,
                kind: ProgramKind::Expression,
                context: "w@1",
                name: "",
                source: "1+1",
            },
            Request::Call {
                call: 2,
                program: 1,
                deadline_ms: 9,
                input: "{\"é\":1}",
                context: "",
            },
            Request::Cancel { call: 2 },
            Request::Reset,
            Request::Check {
                call: 3,
                deadline_ms: 1,
                name: "f",
                source: "function f(){}",
            },
            Request::Probe { call: 4 },
            Request::CheckExpressions {
                call: 5,
                deadline_ms: 1,
                sources: "[\"1\"]",
            },
        ];
        let mut bytes = Vec::new();
        requests.iter().for_each(|request| request.write(&mut bytes));
        let mut rest = bytes.as_slice();
        for request in &requests {
            let (length, body) = split(rest).unwrap().unwrap();
            assert_eq!(&Request::read(body).unwrap(), request);
            assert_eq!(
                Request::read(&body[..body.len() - usize::from(body.len() > 1)]).is_err(),
                body.len() > 1
            );
            rest = &rest[length..];
        }
        assert!(rest.is_empty());

        let fault = Fault {
            details: Some("{}".into()),
            retry_after_ms: Some(7),
            ..Fault::new("X", "m", true)
        };
        for response in [
            Response::Hello {
                version: 1,
                lockdown: "{}".into(),
            },
            Response::Done {
                call: 1,
                logs: vec![("info".into(), "x".into())],
                result: Ok("1".into()),
            },
            Response::Done {
                call: 1,
                logs: vec![],
                result: Err(fault),
            },
            Response::TakenBack { call: 8 },
        ] {
            let mut bytes = Vec::new();
            response.write(&mut bytes);
            assert_eq!(split(&bytes[..bytes.len() - 1]).unwrap(), None);
            assert_eq!(Response::read(split(&bytes).unwrap().unwrap().1).unwrap(), response);
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused() {
        assert_eq!(split(&[0xff, 0xff, 0xff, 0xff, 1]), Err(Malformed));
        assert_eq!(split(&[0, 0, 0, 0]), Err(Malformed));
    }
}
