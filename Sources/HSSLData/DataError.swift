import HSSLFormats

/// Why an image, a folder or a data set cannot be used. The description is one line that names the path.
public struct DataError: Error, CustomStringConvertible, Equatable, Sendable {
    public enum Kind: Sendable {
        /// The file system refused: absent, no permission, not a file of the needed kind.
        case unreadable
        /// No image (nor IDX, where that is asked for) by its first bytes.
        case unknownFormat
        /// The data ends early.
        case truncated
        case corrupt
        /// Valid, but of a kind that is not decoded here.
        case unsupported
        /// Over a limit of ``DecodeLimits``.
        case tooLarge
        case outOfMemory
        /// A data set without images.
        case empty
        /// Images and labels do not belong together.
        case mismatch
        /// Symbolic links that lead back to a folder above them.
        case symbolicLinkLoop
    }

    public let kind: Kind
    public let path: String
    public let reason: String

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
