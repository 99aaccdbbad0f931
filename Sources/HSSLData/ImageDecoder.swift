import CImage
import HSSLFormats

/// An 8-bit RGB image: `pixels` [height, width, 3].
public struct RGBImage: Equatable, Sendable {
    public let width: Int
    public let height: Int
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

/// What one image may cost; checked before any pixel is decoded.
public struct DecodeLimits: Equatable, Sendable {
    /// width × height.
    public var pixels: Int
    /// Bytes of the encoded file, and separately of all memory that decoding it takes.
    public var bytes: Int
    /// Scans of one (progressive) JPEG; usual files have about ten.
    public var scans: Int
    /// Not 0: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size, the smallest that leaves its shorter side at least this
    /// long. Cheaper in time and memory; the pixels are no longer those of the whole picture resized.
    public var reducedSide: Int

    /// 100 megapixels, 512 MiB, 100 scans.
    public static let `default` = DecodeLimits()

    public init(pixels: Int = 100_000_000, bytes: Int = 512 << 20, scans: Int = 100, reducedSide: Int = 0) {
        self.pixels = pixels
        self.bytes = bytes
        self.scans = scans
        self.reducedSide = reducedSide
    }

    var native: cimage_limits {
        cimage_limits(
            max_pixels: UInt64(max(pixels, 0)), max_bytes: UInt64(max(bytes, 0)),
            max_scans: UInt32(min(max(scans, 1), 10_000)), reduced_side: UInt32(min(max(reducedSide, 0), 1 << 16)))
    }
}

/// Decodes JPEG and PNG, by content whatever the file's name: upright (EXIF), three channels, alpha composed on black.
public enum ImageDecoder {
    /// - Throws: ``DataError``, naming `path`.
    public static func decode(path: String, limits: DecodeLimits = .default) throws -> RGBImage {
        let data: [UInt8]
        do { data = try readFile(at: path, limit: limits.bytes) } catch { throw DataError(.unreadable, error) }
        return try decode(data, name: path, limits: limits)
    }

    /// - Parameter name: what an error calls the data.
    /// - Throws: ``DataError``.
    public static func decode(_ data: [UInt8], name: String, limits: DecodeLimits = .default) throws -> RGBImage {
        try data.withUnsafeBufferPointer { try decode($0, name: name, limits: limits) }
    }

    /// Width and height of an image file, upright, without decoding it.
    ///
    /// - Throws: ``DataError``, naming `path`.
    package static func size(path: String, limits: DecodeLimits = .default) throws -> (width: Int, height: Int) {
        let data: [UInt8]
        do { data = try readFile(at: path, limit: limits.bytes) } catch { throw DataError(.unreadable, error) }
        var native = limits.native
        var info = cimage_info()
        try check(path) { cimage_probe(data, data.count, &native, &info, $0) }
        let (width, height) = (Int(info.width), Int(info.height))
        return info.orientation >= 5 ? (height, width) : (width, height)
    }

    static func decode(_ data: UnsafeBufferPointer<UInt8>, name: String, limits: DecodeLimits) throws -> RGBImage {
        var native = limits.native
        var info = cimage_info()
        try check(name) { cimage_probe(data.baseAddress, data.count, &native, &info, $0) }
        let (width, height) = (Int(info.width), Int(info.height))
        let count = width * height * 3
        let stored = try [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            try check(name) { cimage_decode(data.baseAddress, data.count, &native, &info, buffer.baseAddress, $0) }
            initialized = count
        }
        if info.orientation == 1 { return RGBImage(width: width, height: height, pixels: stored) }
        let upright = [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            cimage_orient(stored, info.width, info.height, info.orientation, buffer.baseAddress)
            initialized = count
        }
        return info.orientation >= 5
            ? RGBImage(width: height, height: width, pixels: upright) : RGBImage(
                width: width, height: height, pixels: upright)
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
