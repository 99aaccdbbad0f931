import CImage
import HSSLFormats
#if canImport(Glibc)
import Glibc
#endif

/// An IDX pair: grey images [count, height, width] and, if their file exists, one label byte an image.
struct IDXImages: Sendable {
    let height: Int
    let width: Int
    let imagesPath: String
    let labels: [UInt8]?
    private let file: IDXFile

    private static let imagesSuffix = "-images-idx3-ubyte"
    private static let labelsSuffix = "-labels-idx1-ubyte"

    var count: Int { file.count }

    /// The images file that `prefix` stands for; nil when there is none. The file's own name is accepted for the
    /// prefix.
    static func imagesPath(prefix: String) -> String? {
        if let path = existing(prefix + imagesSuffix) { return path }
        let named = prefix.hasSuffix(imagesSuffix) || prefix.hasSuffix(imagesSuffix + ".gz")
        return named && existing(prefix) == prefix ? prefix : nil
    }

    private static func existing(_ path: String) -> String? {
        for candidate in [path, path + ".gz"] where candidate.withPath({ access($0, F_OK) }) == 0 { return candidate }
        return nil
    }

    /// - Parameter mostBytes: that an inflated file may take in memory; one that is not compressed stays where it is.
    init(imagesPath: String, mostBytes: Int) throws(DataError) {
        self.imagesPath = imagesPath
        file = try Self.read(imagesPath, rank: 3, mostBytes)
        (height, width) = (file.dimensions[1], file.dimensions[2])

        var stem = imagesPath
        if stem.hasSuffix(".gz") { stem.removeLast(3) }
        stem.removeLast(Self.imagesSuffix.count)
        guard let labelsPath = Self.existing(stem + Self.labelsSuffix) else {
            labels = nil
            return
        }
        let labels = try Self.read(labelsPath, rank: 1, mostBytes)
        guard labels.count == file.count else {
            throw DataError(
                .mismatch, path: labelsPath,
                reason: "\(labels.count) labels for the \(file.count) images of \(imagesPath)")
        }
        do { self.labels = try labels.elements() } catch { throw DataError(.unreadable, error) }
    }

    /// What reports call an image.
    func name(_ index: Int) -> String { "\(imagesPath)#\(index)" }

    func image(_ index: Int) throws(DataError) -> RGBImage {
        let grey: [UInt8]
        do { grey = try file.item(index) } catch { throw DataError(.unreadable, error) }
        return grey.withUnsafeBufferPointer { RGBImage(width: width, height: height, grey: $0) }
    }

    private static func read(_ path: String, rank: Int, _ mostBytes: Int) throws(DataError) -> IDXFile {
        let file: IDXFile
        let source: ReadableFile
        do { source = try ReadableFile(path: path) } catch { throw DataError(.unreadable, error) }
        if try isGzip(source) {
            let bytes = try gunzip(source, limit: mostBytes)
            do { file = try IDXFile(bytes, path: path) } catch { throw DataError(.corrupt, error) }
        } else {
            do { file = try IDXFile(source) } catch { throw DataError(.corrupt, error) }
        }
        guard file.dimensions.count == rank else {
            throw DataError(
                .corrupt, path: path, reason: "an IDX file of \(file.dimensions.count) dimensions, expected \(rank)")
        }
        return file
    }

    private static func isGzip(_ file: ReadableFile) throws(DataError) -> Bool {
        guard file.size >= 2 else { return false }
        var bytes: (UInt8, UInt8) = (0, 0)
        do throws(FileError) {
            try withUnsafeMutableBytes(of: &bytes) { buffer throws(FileError) in try file.read(into: buffer, at: 0) }
        } catch {
            throw DataError(.unreadable, error)
        }
        return withUnsafeBytes(of: bytes) {
            cimage_is_gzip($0.baseAddress?.assumingMemoryBound(to: UInt8.self), $0.count)
        }
    }
}

/// What ``gunzip(_:limit:)`` is at, in a file.
private struct Position {
    let file: ReadableFile
    var offset = 0
    var failure: FileError?
}

/// Inflates a gzip file of any number of members, reading it piece by piece.
func gunzip(_ file: ReadableFile, limit: Int) throws(DataError) -> HeapBytes {
    var position = Position(file: file)
    var output: UnsafeMutablePointer<UInt8>?
    var size = 0
    do throws(DataError) {
        try ImageDecoder.check(file.path) { message in
            withUnsafeMutablePointer(to: &position) { position in
                cimage_gunzip({ user, target, size in
                    guard let position = user?.assumingMemoryBound(to: Position.self) else { return -1 }
                    let count = min(size, position.pointee.file.size - position.pointee.offset)
                    do throws(FileError) {
                        try position.pointee.file.read(
                            into: UnsafeMutableRawBufferPointer(start: target, count: count),
                            at: position.pointee.offset)
                    } catch {
                        position.pointee.failure = error
                        return -1
                    }
                    position.pointee.offset += count
                    return count
                }, position, UInt64(max(limit, 0)), &output, &size, message)
            }
        }
    } catch {
        if let failure = position.failure { throw DataError(.unreadable, failure) }
        guard error.kind == .tooLarge else { throw error }
        throw DataError(
            .tooLarge, path: file.path, reason: "\(error.reason); gunzip it: it is then read image by image")
    }
    return HeapBytes(output, count: size)
}
