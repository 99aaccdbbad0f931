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

    /// Bytes of an IDX file, inflated: 90 times the MNIST training images.
    private static let limit = 4 << 30
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

    init(imagesPath: String) throws(DataError) {
        self.imagesPath = imagesPath
        file = try Self.read(imagesPath, rank: 3)
        (height, width) = (file.dimensions[1], file.dimensions[2])

        var stem = imagesPath
        if stem.hasSuffix(".gz") { stem.removeLast(3) }
        stem.removeLast(Self.imagesSuffix.count)
        guard let labelsPath = Self.existing(stem + Self.labelsSuffix) else {
            labels = nil
            return
        }
        let labels = try Self.read(labelsPath, rank: 1)
        guard labels.count == file.count else {
            throw DataError(
                .mismatch, path: labelsPath,
                reason: "\(labels.count) labels for the \(file.count) images of \(imagesPath)")
        }
        self.labels = Array(labels.elements)
    }

    /// What reports call an image.
    func name(_ index: Int) -> String { "\(imagesPath)#\(index)" }

    func image(_ index: Int) -> RGBImage {
        file.item(index).withUnsafeBufferPointer { RGBImage(width: width, height: height, grey: $0) }
    }

    private static func read(_ path: String, rank: Int) throws(DataError) -> IDXFile {
        var bytes: [UInt8]
        do { bytes = try readFile(at: path, limit: limit) } catch { throw DataError(.unreadable, error) }
        if bytes.withUnsafeBufferPointer({ cimage_is_gzip($0.baseAddress, $0.count) }) {
            bytes = try gunzip(bytes, name: path, limit: limit)
        }
        let file: IDXFile
        do { file = try IDXFile(bytes: bytes, path: path) } catch { throw DataError(.corrupt, error) }
        guard file.dimensions.count == rank else {
            throw DataError(
                .corrupt, path: path, reason: "an IDX file of \(file.dimensions.count) dimensions, expected \(rank)")
        }
        return file
    }
}

/// Inflates a gzip file of any number of members.
func gunzip(_ data: [UInt8], name: String, limit: Int) throws(DataError) -> [UInt8] {
    var output: UnsafeMutablePointer<UInt8>?
    var size = 0
    try ImageDecoder.check(name) { message in
        data.withUnsafeBufferPointer {
            cimage_gunzip($0.baseAddress, $0.count, UInt64(max(limit, 0)), &output, &size, message)
        }
    }
    defer { free(output) }
    return Array(UnsafeBufferPointer(start: output, count: size))
}
