import CImage
import Glibc

/// Encodes pictures for files and pages.
public enum ImageEncoder {
    /// An 8-bit RGB PNG.
    ///
    /// - Parameter name: what an error calls the picture.
    /// - Throws: ``DataError`` where memory or the format's limits (2³¹ − 1 pixels a side) do not suffice.
    public static func png(_ image: RGBImage, name: String) throws(DataError) -> [UInt8] {
        guard let width = UInt32(exactly: image.width), let height = UInt32(exactly: image.height) else {
            throw DataError(
                .unsupported, path: name, reason: "a PNG cannot be \(image.width) x \(image.height) pixels large")
        }
        var output: UnsafeMutablePointer<UInt8>?
        var count = 0
        defer { free(output) }
        try ImageDecoder.check(name) { cimage_encode_png(image.pixels, width, height, &output, &count, $0) }
        return Array(UnsafeBufferPointer(start: output, count: count))
    }
}
