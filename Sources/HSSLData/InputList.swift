import HSSLFormats
#if canImport(Glibc)
import Glibc
#endif

/// The ordered inputs of feature extraction: what the command line names, expanded to single images.
///
/// An argument is an image file, a folder (all images below it, sorted bytewise), the prefix of an IDX pair (all its
/// images), or `-`: paths read from standard input, each an argument in its turn. A file is taken whatever its name's
/// extension: its content decides when it is decoded. An argument that cannot be used stays in the list as an item that
/// throws, and so does a folder inside one that cannot be read, so that every input can be reported.
public struct InputList: Sendable {
    public struct Item: Sendable {
        fileprivate enum Source: Sendable {
            case file
            case idx(IDXImages, Int)
            case fault(DataError)
        }

        /// As reports name it: the file's path, or for IDX the file's path, `#` and the image's number from 0.
        public let path: String
        fileprivate let source: Source
    }

    public let items: [Item]
    /// What was found in the folders among the arguments; nil without one.
    public let folders: FolderSummary?
    private let limits: DecodeLimits

    /// - Parameters:
    ///   - arguments: in the order of the rows to come.
    ///   - standardInput: the bytes behind `-`; read when the argument is met, at most once.
    ///   - separator: between paths on standard input: newline, or NUL.
    /// - Throws: what `standardInput` throws.
    public init(
        arguments: [String], limits: DecodeLimits = .default, separator: UInt8 = UInt8(ascii: "\n"),
        standardInput: () throws -> [UInt8] = InputList.readStandardInput
    ) throws {
        self.limits = limits
        var items: [Item] = []
        var folders: FolderSummary?
        var hasReadInput = false
        for argument in arguments {
            if argument == "-" {
                guard !hasReadInput else { continue }
                hasReadInput = true
                for path in try Self.paths(in: standardInput(), separator: separator) {
                    Self.expand(path, into: &items, &folders)
                }
            } else {
                Self.expand(argument, into: &items, &folders)
            }
        }
        self.items = items
        self.folders = folders
    }

    public var count: Int { items.count }

    /// Decodes an input. Thread-safe.
    ///
    /// - Throws: ``DataError``.
    public func image(_ index: Int) throws -> RGBImage {
        switch items[index].source {
        case .file: try ImageDecoder.decode(path: items[index].path, limits: limits)
        case .idx(let images, let number): images.image(number)
        case .fault(let error): throw error
        }
    }

    /// All bytes of standard input.
    public static func readStandardInput() throws -> [UInt8] {
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let n = read(STDIN_FILENO, &chunk, chunk.count)
            if n > 0 {
                bytes.append(contentsOf: chunk[..<n])
            } else if n == 0 {
                return bytes
            } else if errno != EINTR {
                throw DataError(.unreadable, path: "standard input", action: "cannot read", code: errno)
            }
        }
    }

    /// - Throws: ``DataError`` for a list that is not what `separator` says: its paths would be files that nobody has.
    private static func paths(in bytes: [UInt8], separator: UInt8) throws(DataError) -> [String] {
        var bytes = bytes[...]
        if bytes.starts(with: [0xEF, 0xBB, 0xBF]) { bytes = bytes.dropFirst(3) }
        if let fault = fault(in: bytes, separator: separator) {
            throw DataError(.unsupported, path: "standard input", reason: fault)
        }
        return bytes.split(separator: separator).compactMap { line in
            // Lists made on Windows end their lines with CR LF.
            let isText = separator == UInt8(ascii: "\n") && line.last == UInt8(ascii: "\r")
            let path = isText ? line.dropLast() : line
            return path.isEmpty ? nil : PathBytes.string(path)
        }
    }

    private static func fault(in bytes: ArraySlice<UInt8>, separator: UInt8) -> String? {
        // Of ASCII text in UTF-16 every other byte is 0; paths of one letter between NULs look the same.
        let sample = bytes.prefix(1 << 16)
        let isWide = separator != 0 && 3 * sample.count(where: { $0 == 0 }) > sample.count
        if isWide || bytes.starts(with: [0xFF, 0xFE]) || bytes.starts(with: [0xFE, 0xFF]) {
            return "the list of paths is UTF-16; convert it (iconv -f UTF-16 -t UTF-8)"
        }
        if separator != 0, bytes.contains(0) { return "the paths are separated by NUL; give --null" }
        if separator == 0, !bytes.contains(0), bytes.contains(UInt8(ascii: "\n")) {
            return "--null: the paths are separated by newlines, not NUL"
        }
        return nil
    }

    private static func expand(_ argument: String, into items: inout [Item], _ folders: inout FolderSummary?) {
        do throws(DataError) {
            if ImageFiles.isFolder(argument) {
                let listing = try ImageFiles.list(argument)
                folders = folders ?? FolderSummary()
                folders?.add(listing.summary)
                if listing.images.isEmpty, listing.faults.isEmpty {
                    throw DataError(
                        .empty, path: argument, reason: "the folder has no images (\(ImageFiles.suffixText))")
                }
                items.append(contentsOf: listing.images.map {
                    Item(path: ImageFiles.join(argument, $0), source: .file)
                })
                items.append(contentsOf: listing.faults.map { Item(path: $0.path, source: .fault($0)) })
            } else if let imagesPath = IDXImages.imagesPath(prefix: argument) {
                let images = try IDXImages(imagesPath: imagesPath)
                items.append(contentsOf: (0..<images.count).map {
                    Item(path: images.name($0), source: .idx(images, $0))
                })
            } else {
                items.append(Item(path: argument, source: .file))
            }
        } catch {
            items.append(Item(path: argument, source: .fault(error)))
        }
    }

    /// Whether any of up to `sample` inputs spread over the whole list can be decoded.
    public func hasUsable(sample: Int) -> Bool {
        let step = max(1, items.count / max(1, sample))
        return stride(from: 0, to: items.count, by: step).contains { (try? image($0)) != nil }
    }
}
