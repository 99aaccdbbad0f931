import XCTest

@testable import HSSLData

final class ImageEncoderTests: XCTestCase {
    /// PNG loses nothing, so decoding gives the picture back.
    func testPNGRoundTrip() throws {
        for (width, height) in [(1, 1), (2, 1), (1, 7), (28, 28), (300, 200)] {
            let pixels = (0..<width * height * 3).map { UInt8(truncatingIfNeeded: $0 * 89 + $0 / 7) }
            let image = RGBImage(width: width, height: height, pixels: pixels)
            let png = try ImageEncoder.png(image, name: "x")
            XCTAssertEqual(Array(png.prefix(8)), [0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A])
            XCTAssertEqual(try ImageDecoder.decode(png, name: "x"), image, "\(width) x \(height)")
            XCTAssertEqual(png, try ImageEncoder.png(image, name: "x"), "one picture has one encoding")
        }
        let photo = try Fixtures().image("photo.jpg")
        XCTAssertEqual(try ImageDecoder.decode(ImageEncoder.png(photo, name: "x"), name: "x"), photo)
    }

    func testPixelsAreCompressed() throws {
        let flat = RGBImage(width: 300, height: 200, pixels: [UInt8](repeating: 7, count: 300 * 200 * 3))
        XCTAssertLessThan(try ImageEncoder.png(flat, name: "x").count, 2000)
    }
}
