import Foundation
import TestSupport
import XCTest

@testable import HSSLData

/// Files that must fail, each with a typed error and quickly.
final class CorruptImageTests: XCTestCase {
    private func error(_ data: [UInt8], limits: DecodeLimits = .default, _ note: String = "") -> DataError? {
        let start = processorTime()
        defer { if !isInstrumented { XCTAssertLessThan(processorTime() - start, 1, note) } }
        return dataError { _ = try ImageDecoder.decode(data, name: "bad", limits: limits) }
    }

    private func bigEndian(_ n: Int) -> [UInt8] { [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: n >> $0) } }

    /// A PNG chunk; its CRC by the definition.
    private func chunk(_ type: String, _ data: [UInt8]) -> [UInt8] {
        let body = Array(type.utf8) + data
        var crc: UInt32 = .max
        for byte in body {
            crc ^= UInt32(byte)
            for _ in 0..<8 { crc = crc & 1 == 1 ? crc >> 1 ^ 0xEDB8_8320 : crc >> 1 }
        }
        return bigEndian(data.count) + body + bigEndian(Int(~crc))
    }

    private let signature: [UInt8] = [0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A]

    private func header(_ width: Int, _ height: Int, depth: UInt8 = 8, color: UInt8 = 2) -> [UInt8] {
        signature + chunk("IHDR", bigEndian(width) + bigEndian(height) + [depth, color, 0, 0, 0])
    }

    private static let oneOfEachKind = [
        "rgb-420.jpg", "rgb-progressive.jpg", "grey.jpg", "cmyk.jpg", "exif-6.jpg", "rgb.png", "rgb-interlaced.png",
        "palette-alpha.png", "exif-6.png", "rgb.webp", "alpha-lossless.webp", "animated.webp", "palette.gif",
        "interlaced.gif", "rgb.bmp", "palette-4.bmp", "runs-8.bmp", "rgb-lzw.tiff", "tiles.tiff", "jpeg.tiff",
    ]

    /// A cut file is an error, or every pixel is there.
    func testEveryTruncationFailsOrIsWhole() throws {
        let fixtures = try Fixtures()
        for name in Self.oneOfEachKind {
            let whole = try fixtures.bytes(name), picture = try fixtures.image(name)
            let step = max(1, whole.count / 400)
            for length in Array(stride(from: 0, to: whole.count, by: step)) + Array(
                max(0, whole.count - 20)..<whole.count) {
                let cut = Array(whole.prefix(length))
                guard let found = error(cut, "\(name) cut at \(length)") else {
                    XCTAssertTrue(try ImageDecoder.decode(cut, name: "x") == picture, "\(name) cut at \(length)")
                    continue
                }
                XCTAssertTrue(
                    [.truncated, .unknownFormat, .corrupt].contains(found.kind),
                    "\(name) cut at \(length): \(found.description)")
            }
            // A cut past the header is told apart from damage. TIFF has its header at the end.
            guard !name.hasSuffix("tiff"), !name.hasPrefix("animated.gif") else { continue }
            XCTAssertEqual(error(Array(whole.dropLast(whole.count / 4)))?.kind, .truncated, name)
        }
    }

    /// How the picture is to be turned stands behind its pixels, and is cut.
    func testCutOrientationIsTruncated() throws {
        let whole = try Fixtures().bytes("exif-after-pixels.png")
        let exif = try XCTUnwrap((0..<whole.count - 4).first { Array(whole[$0..<$0 + 4]) == Array("eXIf".utf8) })
        for length in exif + 1..<whole.count - 12 {
            XCTAssertEqual(error(Array(whole.prefix(length)))?.kind, .truncated, "cut at \(length)")
        }
    }

    /// A download that stopped, in a file that had its size from the start: zeros are no pixels.
    func testZerosForTheRestAreNoPixels() throws {
        let fixtures = try Fixtures()
        for name in [
            "rgb-420.jpg", "rgb-444.jpg", "rgb-progressive.jpg", "rgb-restart.jpg", "grey.jpg", "cmyk.jpg", "rgb.png",
        ] {
            let whole = try fixtures.bytes(name), picture = try fixtures.image(name)
            for length in stride(from: whole.count / 8, to: whole.count - 14, by: 3) {
                for zeros in [whole.count - length, 5000] {
                    let data = Array(whole.prefix(length)) + [UInt8](repeating: 0, count: zeros)
                    if error(data) == nil {
                        XCTAssertTrue(try ImageDecoder.decode(data, name: "x") == picture, "\(name) cut at \(length)")
                    }
                }
            }
        }
    }

    /// A progressive file that ends behind one of its scans: all data of these is there, but not the picture.
    func testCutBehindAScanIsTruncated() throws {
        let whole = try Fixtures().bytes("rgb-progressive.jpg")
        let scans = (0..<whole.count - 1).filter { whole[$0] == 0xFF && whole[$0 + 1] == 0xDA }
        XCTAssertGreaterThan(scans.count, 3)
        for scan in scans.dropFirst() {
            // Tables for the scan may lie before it.
            let end = try XCTUnwrap((0..<scan).last { index in
                whole[index] == 0xFF && whole[index + 1] == 0xC4 && index > scans[0]
            }, "no table")
            XCTAssertEqual(error(Array(whole[..<min(end, scan)]))?.kind, .truncated)
        }
    }

    func testDamagedBytesNeverCrash() throws {
        let fixtures = try Fixtures()
        var generator = SystemRandomNumberGenerator()
        for name in [
            "rgb-420.jpg", "rgb-progressive.jpg", "cmyk.jpg", "rgb-interlaced.png", "palette-4.png", "rgba-16.png",
            "alpha.webp", "lossless.webp", "transparent.gif", "runs-4.bmp", "bits-bgra.bmp", "planes-tiles.tiff",
            "alpha-associated.tiff", "group4.tiff", "jpeg.tiff",
        ] {
            let whole = try fixtures.bytes(name)
            for _ in 0..<150 {
                var damaged = whole
                for _ in 0..<Int.random(in: 1...4, using: &generator) {
                    damaged[Int.random(in: 0..<whole.count, using: &generator)] = .random(
                        in: 0...255, using: &generator)
                }
                _ = error(damaged, limits: DecodeLimits(pixels: 1_000_000), name)
            }
        }
    }

    func testDamagedPNGIsAnError() throws {
        let fixtures = try Fixtures()
        var data = try fixtures.bytes("rgb.png")
        data[data.count - 30] ^= 0x10  // inside IDAT: the CRC tells
        XCTAssertEqual(error(data)?.kind, .corrupt)
    }

    func testNotAnImage() {
        XCTAssertEqual(error([])?.kind, .truncated)
        XCTAssertEqual(error([0])?.kind, .unknownFormat)
        XCTAssertEqual(error([UInt8](repeating: 0, count: 5000))?.kind, .unknownFormat)
        XCTAssertEqual(error(Array("GIF89b".utf8) + [UInt8](repeating: 0, count: 50))?.kind, .unknownFormat)
        XCTAssertEqual(error(Array("GIF89a".utf8) + [UInt8](repeating: 0, count: 50))?.kind, .truncated)
        XCTAssertEqual(error(Array("BM".utf8) + [UInt8](repeating: 0, count: 50))?.kind, .unknownFormat)
        XCTAssertEqual(error(Array("II*\0".utf8))?.kind, .corrupt)
        XCTAssertEqual(error(Array("RIFF\u{10}\0\0\0WEBPVP8 ".utf8))?.kind, .truncated)
        XCTAssertEqual(error([0xFF, 0xD8, 0xFF])?.kind, .truncated)
        XCTAssertEqual(error([0xFF, 0xD8, 0xFF, 0xD9])?.kind, .corrupt)
        XCTAssertEqual(error(signature)?.kind, .truncated)
        XCTAssertEqual(error(signature + chunk("IDAT", []) + chunk("IEND", []))?.kind, .corrupt)
        XCTAssertEqual(error(header(4, 4) + chunk("IEND", []))?.kind, .corrupt)
        XCTAssertEqual(error(header(0, 4) + chunk("IEND", []))?.kind, .corrupt)
    }

    func testDeclaredSizesAreCheckedBeforeDecoding() throws {
        for (width, height) in [(65_000, 65_000), (Int(Int32.max), Int(Int32.max)), (256_000_001, 1)] {
            let found = error(header(width, height) + chunk("IDAT", [0x78, 0x9C, 0]) + chunk("IEND", []))
            XCTAssertEqual(found?.kind, .tooLarge)
            XCTAssertTrue(found?.reason.contains("\(width) x \(height)") ?? false, found?.reason ?? "")
        }
        // 65,500 × 65,500 in a JPEG's frame header.
        var jpeg = try Fixtures().bytes("rgb-420.jpg")
        let frame = try XCTUnwrap((2..<jpeg.count - 1).first { jpeg[$0] == 0xFF && jpeg[$0 + 1] == 0xC0 })
        jpeg.replaceSubrange(frame + 5..<frame + 9, with: [0xFF, 0xDC, 0xFF, 0xDC])
        XCTAssertEqual(error(jpeg)?.kind, .tooLarge)
        // Within the pixels, but over the memory.
        jpeg.replaceSubrange(frame + 5..<frame + 9, with: [0x20, 0x00, 0x20, 0x00])
        XCTAssertEqual(error(jpeg, limits: DecodeLimits(bytes: 100 << 20))?.kind, .tooLarge)
        // Within both, with the data of a small picture.
        XCTAssertEqual(error(jpeg)?.kind, .truncated)
    }

    /// What phones and scanners make today is not refused for its size: with these headers, only the data are missing.
    func testTodaysSizesAreAdmitted() throws {
        let fixtures = try Fixtures()
        func resized(_ name: String, _ marker: UInt8, _ width: Int, _ height: Int) throws -> [UInt8] {
            var jpeg = try fixtures.bytes(name)
            let frame = try XCTUnwrap((2..<jpeg.count - 1).first { jpeg[$0] == 0xFF && jpeg[$0 + 1] == marker })
            let size = [height, width].flatMap { [UInt8($0 >> 8), UInt8($0 & 255)] }
            jpeg.replaceSubrange(frame + 5..<frame + 9, with: size)
            return jpeg
        }
        // 108 and 200 megapixels of a phone; 50 megapixels, progressive and turned.
        XCTAssertEqual(error(try resized("rgb-420.jpg", 0xC0, 12_000, 9_000))?.kind, .truncated)
        XCTAssertEqual(error(try resized("exif-6.jpg", 0xC0, 16_320, 12_240))?.kind, .truncated)
        let turned = try resized("progressive-turned.jpg", 0xC2, 8_192, 6_144)
        XCTAssertEqual(error(turned)?.kind, .truncated)
        // Coefficients and pixels, and no second copy of either.
        XCTAssertEqual(error(turned, limits: DecodeLimits(bytes: 310_000_000))?.kind, .truncated)
        // 81 megapixels without alpha: 3 bytes a pixel.
        let png = header(9_000, 9_000) + chunk("IDAT", [0x78, 0x9C, 0]) + chunk("IEND", [])
        XCTAssertEqual(error(png, limits: DecodeLimits(bytes: 3 * 81_000_000 + 1_000_000))?.kind, .truncated)
        XCTAssertEqual(error(png, limits: DecodeLimits(bytes: 3 * 81_000_000))?.kind, .tooLarge)
    }

    func testLimitsAreSettable() throws {
        let path = try Fixtures().path("rgb.png")
        XCTAssertNoThrow(try ImageDecoder.decode(path: path, limits: DecodeLimits(pixels: 37 * 29)))
        XCTAssertEqual(
            dataError { _ = try ImageDecoder.decode(path: path, limits: DecodeLimits(pixels: 37 * 29 - 1)) }?.kind,
            .tooLarge)
        let found = dataError { _ = try ImageDecoder.decode(path: path, limits: DecodeLimits(bytes: 100)) }
        XCTAssertEqual(found?.path, path)
    }

    /// A progressive file whose first scan comes ten thousand times: as many passes over the picture.
    func testScanBomb() throws {
        let whole = try Fixtures().bytes("rgb-progressive.jpg")
        let first = try XCTUnwrap((0..<whole.count - 1).first { whole[$0] == 0xFF && whole[$0 + 1] == 0xDA })
        let end = try XCTUnwrap((first + 2..<whole.count - 1).first { whole[$0] == 0xFF && whole[$0 + 1] != 0 })
        let scan = Array(whole[first..<end])
        var bomb = Array(whole[..<end])
        for _ in 0..<10_000 { bomb += scan }
        bomb += whole[end...]
        XCTAssertEqual(error(bomb)?.kind, .tooLarge)
        XCTAssertEqual(error(whole, limits: DecodeLimits(scans: 3))?.kind, .tooLarge)
        XCTAssertNil(error(whole, limits: DecodeLimits(scans: 10)))
    }

    /// Compressed text and colour profiles that would inflate to gigabytes, and unknown chunks, are passed over.
    func testAncillaryChunksAreNeverInflated() throws {
        let fixtures = try Fixtures()
        let whole = try fixtures.bytes("rgb.png")
        let noise = [UInt8](repeating: 0x5A, count: 3 << 20)
        let bomb = Array("x\0\0".utf8) + [0x78, 0x9C] + noise
        let inserted = chunk("zTXt", bomb) + chunk("iCCP", bomb) + chunk("vpAg", noise)
        let data = Array(whole[..<33]) + inserted + Array(whole[33...])
        XCTAssertEqual(try ImageDecoder.decode(data, name: "x"), try fixtures.image("rgb.png"))
    }

    /// Bytes after the end marker, and stray ones before a marker, occur in real photographs and cost no pixel.
    func testHarmlessExtrasAreAccepted() throws {
        let fixtures = try Fixtures()
        for name in ["rgb-420.jpg", "rgb.png"] {
            let whole = try fixtures.bytes(name)
            XCTAssertEqual(try ImageDecoder.decode(whole + [1, 2, 3, 4], name: "x"), try fixtures.image(name))
        }
        let jpeg = try fixtures.bytes("rgb-420.jpg")
        XCTAssertEqual(
            try ImageDecoder.decode(Array(jpeg.dropLast(2)) + [0, 0, 0xFF, 0xD9], name: "x"),
            try fixtures.image("rgb-420.jpg"))
    }

    func testErrorsNameTheFileInOneLine() throws {
        let path = try Fixtures().path("manifest.json")
        let found = try XCTUnwrap(dataError { _ = try ImageDecoder.decode(path: path) })
        XCTAssertEqual(found.description, "\(path): not a JPEG, PNG, WebP, GIF, BMP or TIFF by its first bytes")
        XCTAssertEqual(dataError { _ = try ImageDecoder.decode(path: "/nonexistent/x.jpg") }?.kind, .unreadable)
        XCTAssertEqual(dataError { _ = try ImageDecoder.decode(path: "/tmp") }?.kind, .unreadable)
    }
}
