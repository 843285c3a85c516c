//! Text files that people write: read without ever blocking on one, and with
//! a line and column for every byte.

use std::{
    cell::OnceCell,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    ops::Range,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// The largest rule file or set file, in bytes.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// Why a file can't be used at all, before anything in it is looked at.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Missing, no permission, or an error of the disk.
    #[error("{}", describe(.0))]
    Io(#[from] io::Error),
    /// A directory, FIFO, socket or device. It is refused without being
    /// opened: opening a FIFO would wait for a writer.
    #[error("found {0}, expected a regular file")]
    NotAFile(&'static str),
    /// Larger than [`MAX_FILE_BYTES`].
    #[error("it is larger than the limit of {MAX_FILE_BYTES} bytes")]
    TooLarge,
    /// Some byte is not UTF-8.
    #[error("found a byte that is not UTF-8 at offset {offset}, line {line}, expected UTF-8 text")]
    NotUtf8 {
        /// In bytes from the start of the file.
        offset: usize,
        /// From 1.
        line: usize,
    },
    /// A NUL byte: no text file has one, many damaged files do.
    #[error("found a NUL byte at offset {offset}, line {line}, expected text")]
    Nul {
        /// In bytes from the start of the file.
        offset: usize,
        /// From 1.
        line: usize,
    },
    /// Nothing but blanks and comments.
    #[error("it is empty, and an empty rule file is never `allow all`")]
    Empty,
}

impl ReadError {
    /// The way out.
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self {
            Self::Io(e) if e.kind() == io::ErrorKind::NotFound => "check the path",
            Self::Io(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                "run as root, or make the file and its directories readable"
            }
            Self::Io(_) => "check the disk and the path",
            Self::NotAFile(_) => "name the file itself",
            Self::TooLarge => {
                "split it: a rule can name several sets, each with a file of its own, and an \
                 import takes several files"
            }
            Self::NotUtf8 { .. } => "save the file as UTF-8",
            Self::Nul { .. } => "the file is damaged or not text: restore it",
            Self::Empty => "to remove protection, run `sg-agent detach`",
        }
    }
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "it does not exist".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

/// Reads a whole text file.
///
/// # Errors
///
/// Every [`ReadError`] but [`ReadError::Empty`].
pub(crate) fn read(path: &Path) -> Result<String, ReadError> {
    decode(read_bytes(path)?)
}

/// The text of a file that was read.
///
/// # Errors
///
/// [`ReadError::NotUtf8`] and [`ReadError::Nul`].
pub(crate) fn decode(bytes: Vec<u8>) -> Result<String, ReadError> {
    let text = String::from_utf8(bytes).map_err(|e| {
        let offset = e.utf8_error().valid_up_to();
        ReadError::NotUtf8 {
            offset,
            line: line_of(e.as_bytes(), offset),
        }
    })?;
    refuse_nul(&text)?;
    Ok(text)
}

/// # Errors
///
/// [`ReadError::Nul`].
pub(crate) fn refuse_nul(text: &str) -> Result<(), ReadError> {
    match text.find('\0') {
        None => Ok(()),
        Some(offset) => Err(ReadError::Nul {
            offset,
            line: line_of(text.as_bytes(), offset),
        }),
    }
}

/// # Errors
///
/// [`ReadError::Empty`].
pub(crate) fn refuse_empty(text: &str) -> Result<(), ReadError> {
    let blank = |line: &str| line.is_empty() || line.starts_with('#');
    let text = text.trim_start_matches('\u{feff}');
    if text.lines().all(|line| blank(line.trim())) {
        return Err(ReadError::Empty);
    }
    Ok(())
}

/// The bytes of a regular file.
///
/// # Errors
///
/// [`ReadError::Io`], [`ReadError::NotAFile`] and [`ReadError::TooLarge`].
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>, ReadError> {
    // Looked at before it is opened: to open a device can have effects. And
    // again after: the path may name another file by then.
    refuse_special(&fs::metadata(path)?)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    refuse_special(&file.metadata()?)?;
    read_limited(&file)
}

fn refuse_special(metadata: &fs::Metadata) -> Result<(), ReadError> {
    use std::os::unix::fs::FileTypeExt;

    let kind = metadata.file_type();
    let found = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(ReadError::NotAFile(found))
}

fn read_limited(file: &File) -> Result<Vec<u8>, ReadError> {
    let length = file.metadata()?.len();
    if length > MAX_FILE_BYTES {
        return Err(ReadError::TooLarge);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1);
    // It may have grown since.
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(ReadError::TooLarge);
    }
    Ok(bytes)
}

fn line_of(bytes: &[u8], offset: usize) -> usize {
    let before = bytes.iter().take(offset);
    1 + before.filter(|byte| **byte == b'\n').count()
}

/// A range of bytes of one [`Source`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Span {
    /// Its first byte: the bracket of an inline table, say.
    pub(crate) fn first(self) -> Self {
        Self {
            end: self.end.min(self.start + 1),
            ..self
        }
    }
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        Self {
            start: range.start,
            end: range.end,
        }
    }
}

/// A text and where its lines start.
pub(crate) struct Source<'a> {
    pub(crate) name: &'a str,
    pub(crate) text: &'a str,
    /// Found when the first place is asked for: a good set file needs none.
    line_starts: OnceCell<Vec<usize>>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(name: &'a str, text: &'a str) -> Self {
        Self {
            name,
            text,
            line_starts: OnceCell::new(),
        }
    }

    fn line_starts(&self) -> &[usize] {
        self.line_starts.get_or_init(|| {
            let newlines = self.text.match_indices('\n');
            let starts = newlines.map(|(at, _)| at + 1);
            std::iter::once(0).chain(starts).collect()
        })
    }

    /// What `span` covers, or nothing where it does not fit the text.
    pub(crate) fn slice(&self, span: Span) -> &'a str {
        self.text.get(span.start..span.end).unwrap_or_default()
    }

    /// The line of a byte, from 1.
    pub(crate) fn line(&self, offset: usize) -> usize {
        self.line_starts().partition_point(|start| *start <= offset)
    }

    /// The column of a byte in characters, from 1.
    pub(crate) fn column(&self, offset: usize) -> usize {
        let span = Span {
            start: self.line_span(offset).start,
            end: self.text.floor_char_boundary(offset),
        };
        1 + self.slice(span).chars().count()
    }

    /// `file:line:col` of a byte.
    pub(crate) fn place(&self, offset: usize) -> String {
        let (line, column) = (self.line(offset), self.column(offset));
        format!("{}:{line}:{column}", self.name)
    }

    /// The line that holds a byte, without its end-of-line characters.
    pub(crate) fn line_span(&self, offset: usize) -> Span {
        let line = self.line(offset);
        let start = self.line_starts().get(line - 1).copied().unwrap_or(0);
        let next = self.line_starts().get(line).copied();
        let whole = Span {
            start,
            end: next.unwrap_or(self.text.len()),
        };
        let text = self.slice(whole).trim_end_matches(['\n', '\r']);
        Span {
            end: start + text.len(),
            ..whole
        }
    }

    /// `span`, moved to whole characters of the text; one that lies in the
    /// blanks at the end of the text is moved to the end of the last line.
    pub(crate) fn clamp(&self, span: Span) -> Span {
        let end_of_text = self.text.trim_end().len();
        let start = self.text.floor_char_boundary(span.start.min(end_of_text));
        let end = self.text.ceil_char_boundary(span.end.max(start));
        Span { start, end }
    }
}
