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
    /// One input, not yet decoded.
    public struct Item: Sendable {
        /// As reports name it: the file's path, or for IDX the file's path, `#` and the image's number from 0.
        public let path: String
    }

    /// The inputs in order; each is made when it is asked for.
    public struct Items: RandomAccessCollection, Sendable {
        fileprivate let list: Segments

        /// Place of the first input: 0.
        public var startIndex: Int { 0 }
        /// The number of inputs.
        public var endIndex: Int { list.count }
        /// The input at `index`, 0 ..< ``endIndex``.
        public subscript(index: Int) -> Item {
            let (segment, place) = list.locate(index)
            return Item(path: segment.path(place))
        }
    }

    private let segments: Segments
    /// What was found in the folders among the arguments; nil without one.
    public let folders: FolderSummary?
    private var reader: ImageReader

    /// - Parameters:
    ///   - arguments: in the order of the rows to come.
    ///   - separator: between paths on standard input: newline, or NUL.
    ///   - mostBytes: of memory for the list, and for what is inflated of IDX files.
    ///   - standardInput: gives the bytes behind `-` piece by piece and an empty piece at their end; read when the
    ///     argument is met, at most once.
    /// - Throws: what `standardInput` throws, and ``DataError`` for a list that is too long or no list.
    public init(
        arguments: [String], limits: DecodeLimits = .default, separator: UInt8 = UInt8(ascii: "\n"),
        mostBytes: Int = .max, standardInput: () throws -> [UInt8] = InputList.readStandardInput
    ) throws {
        var builder = Builder(mostBytes: mostBytes)
        var hasReadInput = false
        for argument in arguments {
            if argument == "-" {
                guard !hasReadInput else { continue }
                hasReadInput = true
                var lines = PathLines(separator: separator)
                while true {
                    let piece = try standardInput()
                    try lines.read(piece) { path throws(DataError) in try builder.expand(path) }
                    if piece.isEmpty { break }
                }
            } else {
                try builder.expand(argument)
            }
        }
        segments = builder.segments
        folders = builder.folders
        reader = ImageReader(limits: limits, count: segments.count)
    }

    /// The inputs in order, by their names; nothing is decoded.
    public var items: Items { Items(list: segments) }
    /// Inputs, those that cannot be used included.
    public var count: Int { segments.count }

    /// Other limits, for images that are decoded from now on.
    public mutating func limit(to limits: DecodeLimits) { reader = ImageReader(limits: limits, count: count) }

    /// How many images were whole but for their end marker, so far.
    public var repairedCount: Int { reader.repairedCount }

    /// Decodes an input, upright and in RGB. Thread-safe.
    ///
    /// - Parameters:
    ///   - index: 0 ..< ``count``.
    ///   - background: what is seen where the image is transparent.
    /// - Throws: ``DataError``, naming the input, where it cannot be read or decoded or is over the limits.
    public func image(_ index: Int, background: RGBColor = .black) throws -> RGBImage {
        try withImage(index, side: 0, background: background) { $0 }
    }

    /// Decodes an input for `body`. Thread-safe; what the images of several threads take together stays within
    /// ``DecodeLimits/bytes``, for which a thread may have to wait.
    ///
    /// - Parameters:
    ///   - side: to which `body` resizes, which takes memory beside the image; 0: it does not.
    ///   - background: what is seen where the image is transparent.
    /// - Throws: ``DataError``, and what `body` throws.
    public func withImage<Result>(
        _ index: Int, side: Int, background: RGBColor = .black, _ body: (RGBImage) throws -> Result
    ) throws -> Result {
        let (segment, place) = segments.locate(index)
        switch segment {
        case .files, .folder:
            return try reader.withImage(
                index, path: segment.path(place), background: background,
                workspace: Preprocessing.workspace(side: side), body)
        case .idx(let images): return try body(try images.image(place))
        case .fault(_, let error): throw error
        }
    }

    /// The next bytes of standard input, at most 64 KB; none at its end.
    ///
    /// - Throws: ``DataError`` where reading fails.
    public static func readStandardInput() throws -> [UInt8] {
        while true {
            var failure: Int32?
            let chunk = [UInt8](unsafeUninitializedCapacity: 1 << 16) { buffer, count in
                let n = read(STDIN_FILENO, buffer.baseAddress, buffer.count)
                if n < 0 { failure = errno }
                count = max(n, 0)
            }
            guard let failure else { return chunk }
            if failure != EINTR {
                throw DataError(.unreadable, path: "standard input", action: "cannot read", code: failure)
            }
        }
    }

    /// Whether any of up to `sample` inputs spread over the whole list can be decoded.
    public func hasUsable(sample: Int) -> Bool {
        let step = max(1, count / max(1, sample))
        return stride(from: 0, to: count, by: step).contains { (try? image($0)) != nil }
    }
}

/// A list in pieces that came together: two million paths take their bytes and 4 more each.
private struct Segments: Sendable {
    enum Segment: Sendable {
        case files(PathList)
        case folder(String, PathList)
        case idx(IDXImages)
        case fault(String, DataError)

        var count: Int {
            switch self {
            case .files(let paths), .folder(_, let paths): paths.count
            case .idx(let images): images.count
            case .fault: 1
            }
        }

        func path(_ place: Int) -> String {
            switch self {
            case .files(let paths): paths[place]
            case .folder(let root, let paths): ImageFiles.join(root, paths[place])
            case .idx(let images): images.name(place)
            case .fault(let path, _): path
            }
        }
    }

    var all: [Segment] = []
    /// Inputs before each.
    private var firsts: [Int] = []
    private(set) var count = 0

    mutating func append(_ segment: Segment) {
        firsts.append(count)
        all.append(segment)
        count += segment.count
    }

    /// Adds to the files at the end.
    mutating func append(file path: String) {
        guard case .files(var paths) = all.last else { return append(.files(PathList([path]))) }
        // Alone with the list, or it would be copied.
        all[all.count - 1] = .fault("", .init(.empty, path: "", reason: ""))
        paths.append(path)
        all[all.count - 1] = .files(paths)
        count += 1
    }

    func locate(_ index: Int) -> (Segment, Int) {
        var low = 0, high = all.count
        while high - low > 1 {
            let middle = (low + high) / 2
            if firsts[middle] <= index { low = middle } else { high = middle }
        }
        return (all[low], index - firsts[low])
    }
}

/// Expands arguments.
private struct Builder {
    let mostBytes: Int
    var segments = Segments()
    var folders: FolderSummary?
    /// Bytes of the paths so far, with what a list of them takes.
    private var bytes = 0

    init(mostBytes: Int) { self.mostBytes = mostBytes }

    /// - Throws: for more than `mostBytes`. What else is wrong with an argument stands in the list.
    mutating func expand(_ argument: String) throws(DataError) {
        do throws(DataError) {
            if ImageFiles.isFolder(argument) {
                let listing = try ImageFiles.list(argument)
                folders = folders ?? FolderSummary()
                folders?.add(listing.summary)
                if listing.images.isEmpty, listing.faults.isEmpty {
                    throw DataError(
                        .empty, path: argument, reason: "the folder has no images (\(ImageFiles.suffixText))")
                }
                if !listing.images.isEmpty { segments.append(.folder(argument, listing.images)) }
                for fault in listing.faults { segments.append(.fault(fault.path, fault)) }
                bytes += listing.images.memoryBytes
            } else if let imagesPath = IDXImages.imagesPath(prefix: argument) {
                let images = try IDXImages(imagesPath: imagesPath, mostBytes: mostBytes)
                if images.count > 0 { segments.append(.idx(images)) }
            } else {
                segments.append(file: argument)
                bytes += argument.utf8.count + 8
            }
        } catch {
            if error.kind == .tooLarge { throw error }
            segments.append(.fault(argument, error))
        }
        if bytes > mostBytes {
            throw DataError(
                .tooLarge, path: "the list of inputs",
                reason:
                    "its \(segments.count) first paths take \(bytes) bytes, more than "
                    + "--memory-limit leaves (\(mostBytes))"
            )
        }
    }
}

/// Paths in the bytes of standard input, which come in pieces.
private struct PathLines {
    let separator: UInt8
    private var rest: [UInt8] = []
    private var hasBegun = false

    init(separator: UInt8) { self.separator = separator }

    /// Takes a piece; an empty one ends the list.
    ///
    /// - Throws: ``DataError`` for a list that is not what `separator` says: its paths would be files that nobody has.
    mutating func read(_ piece: [UInt8], _ body: (String) throws(DataError) -> Void) throws(DataError) {
        var bytes = (rest + piece)[...]
        rest = []
        // What the list is shows in its beginning.
        if !hasBegun, bytes.count < 1 << 16, !piece.isEmpty {
            rest = Array(bytes)
            return
        }
        let isFirst = !hasBegun
        hasBegun = true
        if isFirst, bytes.starts(with: [0xEF, 0xBB, 0xBF]) { bytes = bytes.dropFirst(3) }
        if let fault = fault(in: bytes, isFirst: isFirst) {
            throw DataError(.unsupported, path: "standard input", reason: fault)
        }
        while let end = bytes.firstIndex(of: separator) {
            try take(bytes[..<end], body)
            bytes = bytes[(end + 1)...]
        }
        if piece.isEmpty { try take(bytes, body) } else { rest = Array(bytes) }
    }

    private func take(_ line: ArraySlice<UInt8>, _ body: (String) throws(DataError) -> Void) throws(DataError) {
        // Lists made on Windows end their lines with CR LF.
        let isText = separator == UInt8(ascii: "\n") && line.last == UInt8(ascii: "\r")
        let path = isText ? line.dropLast() : line
        if !path.isEmpty { try body(PathBytes.string(path)) }
    }

    private func fault(in bytes: ArraySlice<UInt8>, isFirst: Bool) -> String? {
        // Of ASCII text in UTF-16 every other byte is 0, in UTF-32 three of four; paths of one letter between NULs look
        // the same.
        let zeros = separator == 0 ? 0 : bytes.count(where: { $0 == 0 }), isWide = 3 * zeros > bytes.count
        if 3 * zeros > 2 * bytes.count {
            return "the list of paths is UTF-32; convert it (iconv -f UTF-32 -t UTF-8)"
        }
        if isWide || (isFirst && (bytes.starts(with: [0xFF, 0xFE]) || bytes.starts(with: [0xFE, 0xFF]))) {
            return "the list of paths is UTF-16; convert it (iconv -f UTF-16 -t UTF-8)"
        }
        if separator != 0, bytes.contains(0) { return "the paths are separated by NUL; give --null" }
        if isFirst, separator == 0, !bytes.contains(0), bytes.contains(UInt8(ascii: "\n")) {
            return "--null: the paths are separated by newlines, not NUL"
        }
        return nil
    }
}
