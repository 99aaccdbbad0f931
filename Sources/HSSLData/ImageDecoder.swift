import CImage
import HSSLFormats

/// An 8-bit RGB image: `pixels` [height, width, 3].
public struct RGBImage: Equatable, Sendable {
    /// Pixels a row, at least 1.
    public let width: Int
    /// Rows, at least 1.
    public let height: Int
    /// Red, green, blue of each pixel, 0 … 255, row by row from the top: [height, width, 3].
    public let pixels: [UInt8]

    /// `pixels` must hold `height · width · 3` bytes.
    public init(width: Int, height: Int, pixels: [UInt8]) {
        precondition(
            width > 0 && height > 0 && pixels.count == width * height * 3,
            "pixels do not fill \(width) x \(height) RGB")
        self.width = width
        self.height = height
        self.pixels = pixels
    }

    /// Greyscale becomes RGB. `grey` [height, width].
    init(width: Int, height: Int, grey: UnsafeBufferPointer<UInt8>) {
        self.width = width
        self.height = height
        pixels = [UInt8](unsafeUninitializedCapacity: 3 * grey.count) { buffer, count in
            for i in 0..<grey.count {
                buffer[3 * i] = grey[i]
                buffer[3 * i + 1] = grey[i]
                buffer[3 * i + 2] = grey[i]
            }
            count = 3 * grey.count
        }
    }
}

/// What images may cost; checked before any pixel is decoded.
public struct DecodeLimits: Equatable, Sendable {
    /// width × height of one image.
    public var pixels: Int
    /// Bytes of memory that decoding takes, the encoded file included: of one image, and of all that are decoded at the
    /// same time.
    public var bytes: Int
    /// Scans of one (progressive) JPEG; usual files have about ten.
    public var scans: Int
    /// Not 0: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size, the smallest that leaves its shorter side at least this
    /// long. Cheaper in time and memory; the pixels are no longer those of the whole picture resized.
    public var reducedSide: Int
    /// The flag that decides about `bytes`, as messages name it.
    package var name = "--max-decode-memory"

    /// 256 megapixels, 1 GiB (of today's phones the largest take 200 megapixels and 0.6 GB), 100 scans.
    public static let `default` = DecodeLimits()

    /// Limits; what is left out is as in ``default``.
    public init(pixels: Int = 256_000_000, bytes: Int = 1 << 30, scans: Int = 100, reducedSide: Int = 0) {
        self.pixels = pixels
        self.bytes = bytes
        self.scans = scans
        self.reducedSide = reducedSide
    }

    /// What `--max-pixels` and `--max-decode-memory` say.
    package init(maxPixels: Int?, maxDecodeMemory: Int?) {
        self = .default
        if let maxPixels { pixels = maxPixels }
        if let maxDecodeMemory { bytes = maxDecodeMemory }
    }

    /// Less memory for decoding, if it is less.
    ///
    /// - Parameter name: the flag that decides about it, as messages name it.
    package mutating func lower(toBytes bytes: Int, name: String) {
        if bytes < self.bytes { (self.bytes, self.name) = (bytes, name) }
    }

    func native(encoded: Int) -> cimage_limits {
        cimage_limits(
            max_pixels: UInt64(max(pixels, 0)), max_bytes: UInt64(max(bytes - encoded, 0)),
            max_scans: UInt32(min(max(scans, 1), 10_000)), reduced_side: UInt32(min(max(reducedSide, 0), 1 << 16)))
    }
}

/// What an image's first bytes say about it.
struct ImageHeader {
    private let info: cimage_info
    /// Upright.
    let width: Int
    let height: Int

    /// Bytes of memory that decoding takes beside the encoded data, the result included.
    var decodeBytes: Int { Int(clamping: info.peak_bytes) }

    /// - Throws: ``DataError``, for what is over the limits too.
    init(_ data: UnsafeBufferPointer<UInt8>, name: String, limits: DecodeLimits) throws(DataError) {
        var native = limits.native(encoded: data.count)
        var info = cimage_info()
        do throws(DataError) {
            try ImageDecoder.check(name) { cimage_probe(data.baseAddress, data.count, &native, &info, $0) }
        } catch {
            guard error.kind == .tooLarge, !error.reason.contains("--") else { throw error }
            throw DataError(.tooLarge, path: name, reason: "\(error.reason) (\(limits.name))")
        }
        self.info = info
        let isTurned = info.orientation >= 5
        width = Int(isTurned ? info.height : info.width)
        height = Int(isTurned ? info.width : info.height)
    }

    init(_ data: [UInt8], name: String, limits: DecodeLimits) throws {
        self = try data.withUnsafeBufferPointer { try ImageHeader($0, name: name, limits: limits) }
    }

    /// - Returns: the image, and whether its end marker was missing.
    func decode(
        _ data: UnsafeBufferPointer<UInt8>, name: String, limits: DecodeLimits, background: RGBColor
    ) throws -> (RGBImage, Bool) {
        var native = limits.native(encoded: data.count), info = info
        let behind = [background.red, background.green, background.blue]
        let count = width * height * 3
        let pixels = try [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            try ImageDecoder.check(name) {
                cimage_decode(data.baseAddress, data.count, &native, &info, behind, buffer.baseAddress, $0)
            }
            initialized = count
        }
        return (RGBImage(width: width, height: height, pixels: pixels), info.repaired)
    }

    func decode(
        _ data: [UInt8], name: String, limits: DecodeLimits, background: RGBColor
    ) throws -> (RGBImage, Bool) {
        try data.withUnsafeBufferPointer { try decode($0, name: name, limits: limits, background: background) }
    }
}

/// Decodes JPEG, PNG, WebP, GIF, BMP and TIFF, by content whatever the file's name: upright, three channels, what is
/// transparent composed on a background; of an animation or several pages the first.
public enum ImageDecoder {
    /// Decodes an image file.
    ///
    /// - Parameters:
    ///   - limits: what decoding may cost; checked before any pixel is decoded.
    ///   - background: what is seen where the image is transparent.
    /// - Throws: ``DataError``, naming `path`, for a file that cannot be read, is no image, is damaged or is over the
    ///   limits.
    public static func decode(
        path: String, limits: DecodeLimits = .default, background: RGBColor = .black
    ) throws -> RGBImage {
        let data: [UInt8]
        do { data = try readFile(at: path, limit: limits.bytes) } catch { throw DataError(.unreadable, error) }
        return try decode(data, name: path, limits: limits, background: background)
    }

    /// Decodes an image in memory.
    ///
    /// - Parameters:
    ///   - data: the bytes of an encoded image, e.g. of a JPEG file.
    ///   - name: what an error calls the data.
    ///   - limits: what decoding may cost; checked before any pixel is decoded.
    ///   - background: what is seen where the image is transparent.
    /// - Throws: ``DataError`` for data that are no image, damaged or over the limits.
    public static func decode(
        _ data: [UInt8], name: String, limits: DecodeLimits = .default, background: RGBColor = .black
    ) throws -> RGBImage {
        try ImageHeader(data, name: name, limits: limits)
            .decode(data, name: name, limits: limits, background: background).0
    }

    /// Width and height of an image file, upright, without decoding it.
    ///
    /// - Throws: ``DataError``, naming `path`.
    package static func size(path: String, limits: DecodeLimits = .default) throws -> (width: Int, height: Int) {
        let data: [UInt8]
        do { data = try readFile(at: path, limit: limits.bytes) } catch { throw DataError(.unreadable, error) }
        let header = try ImageHeader(data, name: path, limits: limits)
        return (header.width, header.height)
    }

    /// Runs a C function that writes its message into the given buffer.
    static func check(_ name: String, _ body: (UnsafeMutablePointer<CChar>) -> cimage_status) throws(DataError) {
        let failure: DataError? =
            withUnsafeTemporaryAllocation(of: CChar.self, capacity: Int(CIMAGE_MESSAGE_CAPACITY)) { message in
            guard let text = message.baseAddress else { return nil }
            text[0] = 0
            let status = body(text)
            return status == CIMAGE_OK ? nil : DataError(kind(of: status), path: name, reason: String(cString: text))
        }
        if let failure { throw failure }
    }

    private static func kind(of status: cimage_status) -> DataError.Kind {
        switch status {
        case CIMAGE_UNKNOWN_FORMAT: .unknownFormat
        case CIMAGE_TRUNCATED: .truncated
        case CIMAGE_UNSUPPORTED: .unsupported
        case CIMAGE_TOO_LARGE: .tooLarge
        case CIMAGE_OUT_OF_MEMORY: .outOfMemory
        default: .corrupt
        }
    }
}
