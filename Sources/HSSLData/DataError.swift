import HSSLFormats

/// Why an image, a folder or a data set cannot be used. The description is one line that names the path.
public struct DataError: Error, CustomStringConvertible, Equatable, Sendable {
    /// What sort of failure it is, for callers that treat some differently.
    public enum Kind: Sendable {
        /// The file system refused: absent, no permission, not a file of the needed kind.
        case unreadable
        /// No image (nor IDX, where that is asked for) by its first bytes.
        case unknownFormat
        /// The data ends early.
        case truncated
        /// The data break the rules of their format, or a decoder gives up on them.
        case corrupt
        /// Valid, but of a kind that is not decoded here.
        case unsupported
        /// Over a limit of ``DecodeLimits``.
        case tooLarge
        /// The system gave no memory, although the image is within the limits.
        case outOfMemory
        /// A data set without images.
        case empty
        /// Images and labels do not belong together.
        case mismatch
        /// Symbolic links that lead back to a folder above them.
        case symbolicLinkLoop
    }

    /// What sort of failure it is.
    public let kind: Kind
    /// The file, folder or data set as the caller named it; an image in memory by the name it was given.
    public let path: String
    /// What is wrong, in one line without the path.
    public let reason: String

    /// An error with these three parts; nothing is checked.
    public init(_ kind: Kind, path: String, reason: String) {
        self.kind = kind
        self.path = path
        self.reason = reason
    }

    init(_ kind: Kind, _ error: FileError) { self.init(kind, path: error.path, reason: error.reason) }

    /// A failed system call: `action` says what was being done, `code` is its errno.
    init(_ kind: Kind, path: String, action: String, code: Int32) {
        self.init(kind, FileError(path: path, action: action, code: Int(code)))
    }

    public var description: String { FileError(path: path, reason: reason).description }
}
