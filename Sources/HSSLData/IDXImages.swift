import CImage
#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// An IDX pair: grey images [count, height, width] and, if their file exists, one label byte an image.
struct IDXImages: Sendable {
    let count: Int
    let height: Int
    let width: Int
    let imagesPath: String
    let labels: [UInt8]?
    private let pixels: IDXArray

    /// Inflated IDX files may be this large: 16 times the MNIST training images would still fit.
    private static let limit = 4 << 30
    private static let imagesSuffix = "-images-idx3-ubyte"
    private static let labelsSuffix = "-labels-idx1-ubyte"

    /// The images file that `prefix` stands for; nil when there is none. The file's own name is accepted for the prefix.
    static func imagesPath(prefix: String) -> String? {
        for candidate in [prefix + imagesSuffix, prefix + imagesSuffix + ".gz"] where access(candidate, F_OK) == 0 { return candidate }
        let named = prefix.hasSuffix(imagesSuffix) || prefix.hasSuffix(imagesSuffix + ".gz")
        return named && access(prefix, F_OK) == 0 ? prefix : nil
    }

    init(imagesPath: String) throws {
        self.imagesPath = imagesPath
        pixels = try IDXArray(path: imagesPath, rank: 3, limit: Self.limit)
        (count, height, width) = (pixels.shape[0], pixels.shape[1], pixels.shape[2])
        guard count == 0 || height > 0 && width > 0 else { throw DataError(.corrupt, path: imagesPath, reason: "the images have no pixels") }

        var stem = imagesPath
        if stem.hasSuffix(".gz") { stem.removeLast(3) }
        stem.removeLast(Self.imagesSuffix.count)
        let labelsPath = [stem + Self.labelsSuffix, stem + Self.labelsSuffix + ".gz"].first { (candidate: String) in access(candidate, F_OK) == 0 }
        if let labelsPath {
            let array = try IDXArray(path: labelsPath, rank: 1, limit: Self.limit)
            guard array.shape[0] == count else {
                throw DataError(.mismatch, path: labelsPath, reason: "\(array.shape[0]) labels for the \(count) images of \(imagesPath)")
            }
            labels = array.withElements { Array($0) }
        } else {
            labels = nil
        }
    }

    func image(_ index: Int) -> RGBImage {
        let size = height * width
        return pixels.withElements { RGBImage(width: width, height: height, grey: UnsafeBufferPointer(rebasing: $0[index * size..<(index + 1) * size])) }
    }
}

/// An IDX file of unsigned bytes, gzipped or not: 00 00 08 rank, then big-endian sizes, then the elements.
struct IDXArray: Sendable {
    let shape: [Int]
    private let bytes: [UInt8]
    private let start: Int

    init(path: String, rank: Int, limit: Int) throws {
        var bytes = try readFile(path, limit: limit)
        if bytes.withUnsafeBufferPointer({ cimage_is_gzip($0.baseAddress, $0.count) }) { bytes = try gunzip(bytes, name: path, limit: limit) }
        start = 4 + 4 * rank
        guard bytes.count >= start else { throw DataError(.truncated, path: path, reason: "an IDX header needs \(start) bytes, \(bytes.count) are there") }
        guard bytes[0] == 0, bytes[1] == 0, bytes[2] == 8, bytes[3] == UInt8(rank) else {
            throw DataError(.unknownFormat, path: path, reason: "not an IDX file of unsigned bytes with \(rank) axes")
        }
        shape = (0..<rank).map { axis in (0..<4).reduce(0) { $0 << 8 | Int(bytes[4 + 4 * axis + $1]) } }
        var size = 1
        for axis in shape {
            let (product, overflow) = size.multipliedReportingOverflow(by: axis)
            guard !overflow, product <= limit else { throw DataError(.tooLarge, path: path, reason: "IDX sizes \(shape) are over the limit of \(limit) bytes") }
            size = product
        }
        guard bytes.count >= start + size else {
            throw DataError(.truncated, path: path, reason: "the IDX data is truncated: sizes \(shape) need \(size) bytes, \(bytes.count - start) are there")
        }
        guard bytes.count == start + size else {
            throw DataError(.corrupt, path: path, reason: "\(bytes.count - start - size) bytes follow the IDX data of sizes \(shape)")
        }
        self.bytes = bytes
    }

    func withElements<R>(_ body: (UnsafeBufferPointer<UInt8>) throws -> R) rethrows -> R {
        try bytes.withUnsafeBufferPointer { try body(UnsafeBufferPointer(rebasing: $0[start...])) }
    }
}

/// Inflates a gzip file of any number of members.
func gunzip(_ data: [UInt8], name: String, limit: Int) throws -> [UInt8] {
    var output: UnsafeMutablePointer<UInt8>?
    var size = 0
    try ImageDecoder.check(name) { message in
        data.withUnsafeBufferPointer { cimage_gunzip($0.baseAddress, $0.count, UInt64(max(limit, 0)), &output, &size, message) }
    }
    defer { free(output) }
    return Array(UnsafeBufferPointer(start: output, count: size))
}
