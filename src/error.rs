//! What can go wrong, one variant per thing that a caller can act on.

/// The error of every public function.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not a model file that we can read. Names the field and the byte offset.
    #[error("not a readable model file: {field} at byte {offset}: {reason}")]
    Format {
        /// The field of the file, for example `metadata count` or `tensor blk.0.attn_q.weight`.
        field: String,
        /// Where in the file, in bytes.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is sound, but we do not run what it holds. Says what works.
    #[error("{what} is not supported; {supported}")]
    Unsupported {
        /// The architecture, tensor type or tokenizer found.
        what: String,
        /// What works instead, as a sentence.
        supported: String,
    },
    /// Tensors or metadata contradict each other.
    #[error("the model does not fit together: {0}")]
    Model(String),
    /// It does not fit in the memory or the limits of the device. Carries the numbers.
    #[error("does not fit the device: {0}")]
    DoesNotFit(String),
    /// A setting that cannot be.
    #[error("{0}")]
    Settings(String),
    /// The dense cache holds no more.
    #[error("dense cache full at {0} tokens; use --attention streaming to go on without end, or a larger --window")]
    CacheFull(u64),
    /// Text could not be turned into tokens or back.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The model's chat template refuses a conversation, in its words, or uses what does not exist here.
    #[error("the model's chat template: {0}")]
    Template(String),
    /// The bytes are no saved session, or not one of this engine's: says what differs.
    #[error("the saved session cannot be used: {0}")]
    Snapshot(String),
    /// No adapter, or none of the kind asked for.
    #[error("no GPU: {0}")]
    NoGpu(String),
    /// The device went away; everything on it is gone.
    #[error("the GPU device was lost: {0}")]
    DeviceLost(String),
    /// The GPU refused something: a fault of ours or of the driver.
    #[error("GPU: {0}")]
    Gpu(String),
    /// Reading the source failed.
    #[error("cannot read {what}: {reason}")]
    Read {
        /// File name or URL.
        what: String,
        /// The system's or the network's words.
        reason: String,
    },
    /// Writing a file failed.
    #[error("cannot write {what}: {reason}")]
    Write {
        /// File name.
        what: String,
        /// The system's words.
        reason: String,
    },
    /// The caller asked to stop.
    #[error("stopped")]
    Aborted,
}

/// `Result` with our [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
