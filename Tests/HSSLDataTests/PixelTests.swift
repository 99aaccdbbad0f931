import CSupport
import Foundation
import HSSLFormats
import TestSupport
import XCTest

@testable import HSSLData

/// Pixels against Pillow's. Resizing and colour are equal to the bit; JPEG may differ by one level, since Pillow brings
/// a newer libjpeg-turbo.
final class PixelTests: XCTestCase {
    private func withEveryRow(_ body: () throws -> Void) rethrows {
        let selected = hssl_isa_selected()
        defer { XCTAssertTrue(hssl_isa_select(selected)) }
        for isa in [HSSL_ISA_SCALAR, HSSL_ISA_AVX2, HSSL_ISA_AVX512] where hssl_isa_select(isa) { try body() }
    }

    override class func setUp() {
        var message = [CChar](repeating: 0, count: 200)
        XCTAssertEqual(hssl_initialize(&message, message.count), 0)
    }

    func testDecodedPixels() throws {
        let fixtures = try Fixtures()
        XCTAssertGreaterThan(fixtures.manifest.decode.count, 180)
        for item in fixtures.manifest.decode {
            let name = item.file ?? ""
            let data = try fixtures.bytes(item.file)
            let (image, isRepaired) = try ImageHeader(data, name: name, limits: .default)
                .decode(data, name: name, limits: .default, background: .black)
            let distance = try image.distance(to: fixtures.expected(item))
            let isLossy = data.starts(with: [0xFF, 0xD8]) || name.contains("jpeg") || name.hasSuffix("webp")
            XCTAssertLessThanOrEqual(try XCTUnwrap(distance, "\(name): sizes differ"), isLossy ? 1 : 0, name)
            XCTAssertEqual(isRepaired, item.repaired ?? false, name)
        }
    }

    /// Transparent pictures on orange: the sum of place · value over the samples of what Pillow gives for
    /// `ground.paste(rgba, mask=rgba.getchannel("A"))`, places from 1.
    func testTransparentPixelsShowTheBackground() throws {
        let fixtures = try Fixtures()
        let orange = try XCTUnwrap(RGBColor("ff8000"))
        for (name, wanted) in [
            ("rgba.png", 304_211_189), ("rgba-interlaced.png", 304_211_189), ("palette-alpha.png", 160_661_046),
            ("grey-alpha.png", 303_251_194), ("grey-key.png", 119_968_689), ("transparent.gif", 493_324_451),
            ("bits-bgra.bmp", 7_991_569), ("alpha-deflate.tiff", 452_783_873),
            ("alpha-unassociated.tiff", 331_389_777), ("alpha-lossless.webp", 452_783_873),
        ] {
            let image = try ImageDecoder.decode(path: fixtures.path(name), background: orange)
            XCTAssertEqual(zip(1..., image.pixels).reduce(0) { $0 + $1.0 * Int($1.1) }, wanted, name)
        }
        // Around the frame of a WebP that is smaller than its canvas, too; and never where a picture is opaque.
        for item in fixtures.manifest.decode {
            let path = try fixtures.path(item.file), name = item.file ?? ""
            let black = try ImageDecoder.decode(path: path).pixels
            let white = try ImageDecoder.decode(path: path, background: .white).pixels
            let ground = try ImageDecoder.decode(path: path, background: orange).pixels
            let colors = [255.0, 128, 0]
            let worst = black.indices.map { i in
                // What shines through is the same for every colour.
                let through = Double(white[i]) - Double(black[i])
                return abs(Double(black[i]) + colors[i % 3] / 255 * through - Double(ground[i]))
            }.max() ?? 0
            XCTAssertLessThan(worst, 1.01, name)
            if ["jpg", "cut-end.png", "cmyk.tiff"].contains(where: name.hasSuffix) {
                XCTAssertEqual(black, white, name)
            }
        }
    }

    /// Every way of turning, by each decoder that turns: the rows of one picture, compared with that picture.
    func testTurning() throws {
        let fixtures = try Fixtures()
        let stored = try fixtures.image("exif-1.tiff")
        let (w, h) = (stored.width, stored.height)
        for orientation in 1...8 {
            let turned = try fixtures.image("exif-\(orientation).tiff")
            XCTAssertEqual([turned.width, turned.height], orientation >= 5 ? [h, w] : [w, h])
            for y in 0..<turned.height {
                for x in 0..<turned.width {
                    let (column, row): (Int, Int) =
                        switch orientation {
                        case 2: (w - 1 - x, y)
                        case 3: (w - 1 - x, h - 1 - y)
                        case 4: (x, h - 1 - y)
                        case 5: (y, x)
                        case 6: (y, h - 1 - x)
                        case 7: (w - 1 - y, h - 1 - x)
                        case 8: (w - 1 - y, x)
                        default: (x, y)
                        }
                    let found = 3 * (y * turned.width + x), source = 3 * (row * w + column)
                    guard turned.pixels[found..<found + 3] == stored.pixels[source..<source + 3] else {
                        return XCTFail("orientation \(orientation) at \(x), \(y)")
                    }
                }
            }
        }
    }

    /// Pillow 13's `Image.BILINEAR` of a 9 × 7 picture, smaller and larger.
    func testBilinearPixels() throws {
        let pixels = (0..<7 * 9 * 3).map { i -> UInt8 in
            let (y, x, c) = (i / 27, i / 3 % 9, i % 3)
            return UInt8((x * 37 + y * 53 + c * 91 + x * y * 11) % 256)
        }
        let image = RGBImage(width: 9, height: 7, pixels: pixels)
        let smaller: [UInt8] = [
            52, 137, 157, 115, 163, 70, 161, 136, 115, 129, 105, 117, 139, 133, 96, 138,
            108, 141, 133, 130, 102, 132, 134, 135, 131, 121, 145, 120, 130, 122, 119, 112,
            128, 129, 115, 141, 87, 106, 149, 98, 105, 128, 139, 130, 128, 113, 96, 163,
        ]
        let larger: [UInt8] = [
            23, 114, 205, 51, 142, 137, 79, 170, 5, 106, 197, 32, 56, 147, 150, 88,
            179, 86, 121, 194, 47, 153, 121, 79, 98, 149, 96, 136, 163, 62, 166, 177,
            100, 156, 71, 138,
        ]
        func resized(_ side: Int) throws -> [UInt8] {
            let preprocessing = try Preprocessing(
                resize: side, crop: side, interpolation: .bilinear, mean: [0, 0, 0], std: [1, 1, 1])
            return preprocessing.cropped(image).pixels
        }
        try withEveryRow {
            XCTAssertEqual(try resized(4), smaller)
            // The first four pixels of three rows.
            XCTAssertEqual(try (0..<3).flatMap { row in try resized(10)[30 * row..<30 * row + 12] }, larger)
        }
    }

    /// A reduced JPEG has the size of the whole one divided, and resized the pixels of the whole one, nearly.
    func testReducedJPEGs() throws {
        let fixtures = try Fixtures()
        for (name, least, reduction) in [
            ("photo.jpg", 248, 1), ("photo.jpg", 124, 1), ("photo.jpg", 123, 2), ("photo.jpg", 61, 4),
            ("photo.jpg", 30, 8), ("photo.jpg", 2, 8), ("photo.jpg", 0, 1),
            ("photo-tall.jpg", 30, 4), ("exif-6.jpg", 6, 2), ("cmyk.jpg", 6, 4), ("grey-progressive.jpg", 23, 2),
            ("rgb-progressive.jpg", 11, 4), ("one-pixel.jpg", 1, 1),
            ("rgb.png", 8, 1),
        ] {
            let whole = try fixtures.image(name)
            let found = try ImageDecoder.decode(path: fixtures.path(name), limits: DecodeLimits(reducedSide: least))
            let (width, height) = (
                (whole.width + reduction - 1) / reduction, (whole.height + reduction - 1) / reduction
            )
            XCTAssertEqual([found.width, found.height], [width, height], "\(name) at least \(least)")
            if reduction == 1 {
                XCTAssertEqual(found, whole, name)
                continue
            }
            // Turned upright, the block that the picture fills only in part stands at the beginning.
            if name.hasPrefix("exif") { continue }
            // Each pixel against the mean of the block that it stands for: the smaller DCT is close to that.
            var error = 0
            for y in 0..<whole.height / reduction {
                for x in 0..<whole.width / reduction {
                    for channel in 0..<3 {
                        var sum = 0
                        for row in 0..<reduction {
                            for column in 0..<reduction {
                                sum += Int(
                                    whole.pixels[
                                        3 * ((y * reduction + row) * whole.width + x * reduction + column) + channel])
                            }
                        }
                        error += abs(Int(found.pixels[3 * (y * width + x) + channel]) - sum / (reduction * reduction))
                    }
                }
            }
            let mean = Double(error) / Double(3 * (whole.width / reduction) * (whole.height / reduction))
            XCTAssertLessThan(mean, 6, "\(name) at least \(least)")
        }
    }

    /// What is too large stays too large; a limit of memory counts what the reduced picture takes.
    func testReducedJPEGsAndLimits() throws {
        let path = try Fixtures().path("photo.jpg")
        for reducedSide in [0, 30] {
            XCTAssertThrowsError(
                try ImageDecoder.decode(
                    path: path, limits: DecodeLimits(pixels: 331 * 247 - 1, reducedSide: reducedSide)))
        }
        // 245 KB of pixels, and the decoder's own.
        XCTAssertThrowsError(try ImageDecoder.decode(path: path, limits: DecodeLimits(bytes: 250 << 10)))
        XCTAssertNoThrow(try ImageDecoder.decode(path: path, limits: DecodeLimits(bytes: 250 << 10, reducedSide: 30)))
    }

    func testResizedPixels() throws {
        let fixtures = try Fixtures()
        try withEveryRow {
            for item in fixtures.manifest.resize {
                let source = try fixtures.image(item.source)
                let box = try XCTUnwrap(item.box)
                var plan = hssl_resize_whole(source.width, source.height, item.width, item.height)
                (plan.left, plan.top, plan.right, plan.bottom) = (box[0], box[1], box[2], box[3])
                XCTAssertEqual(resize(source, &plan), try fixtures.expected(item), item.expected)
            }
        }
    }

    /// A part of a result is that part of the whole result, and the workspace is as large as promised.
    func testCropsOfAResizeEqualTheWhole() throws {
        let fixtures = try Fixtures()
        for name in ["wide.png", "tall.png", "small.png"] {
            let source = try fixtures.image(name)
            for (width, height) in [
                (40, 30), (source.width, 31), (33, source.height), (source.width, source.height), (200, 20),
            ] {
                var whole = hssl_resize_whole(source.width, source.height, width, height)
                let all = resize(source, &whole)
                for (x, y, w, h) in [
                    (0, 0, 1, 1), (width - 1, height - 1, 1, 1), (width / 3, height / 4, width / 2, height / 2),
                ] {
                    var part = whole
                    (part.crop_left, part.crop_top, part.crop_width, part.crop_height) = (x, y, w, h)
                    let rows: [UInt8] = (y..<y + h).flatMap { (row: Int) -> ArraySlice<UInt8> in
                        let start = 3 * (row * width + x)
                        return all.pixels[start..<start + 3 * w]
                    }
                    XCTAssertEqual(resize(source, &part).pixels, rows, "\(name) \(width)x\(height) at \(x),\(y)")
                }
            }
        }
    }

    func testPreprocessedPixels() throws {
        let fixtures = try Fixtures()
        try withEveryRow {
            for item in fixtures.manifest.preprocess {
                let preprocessing = try Preprocessing(
                    resize: XCTUnwrap(item.resize), crop: XCTUnwrap(item.crop), mean: [0.485, 0.456, 0.406],
                    std: [0.229, 0.224, 0.225])
                let source = try fixtures.image(item.source)
                let distance = try preprocessing.cropped(source).distance(to: fixtures.expected(item))
                XCTAssertLessThanOrEqual(
                    try XCTUnwrap(distance, item.expected), 1, "\(item.source ?? "") \(item.expected)")
            }
        }
    }

    func testNormalisedValuesArePlanar() throws {
        let fixtures = try Fixtures()
        let source = try fixtures.image("square.png")
        let preprocessing = try Preprocessing(resize: 31, crop: 27, mean: [0.1, 0.5, 0.9], std: [0.2, 0.3, 0.4])
        let pixels = preprocessing.cropped(source).pixels
        withEveryRow {
            let values = preprocessing.apply(to: source)
            XCTAssertEqual(values.count, preprocessing.count)
            for c in 0..<3 {
                for i in 0..<27 * 27 {
                    let exact = (Float(pixels[3 * i + c]) / 255 - preprocessing.mean[c]) / preprocessing.std[c]
                    XCTAssertEqual(values[c * 27 * 27 + i], exact, accuracy: 2e-6)
                }
            }
        }
    }

    func testCropOffsetsRoundHalvesToEven() {
        XCTAssertEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(Preprocessing.halfToEven), [0, 0, 1, 2, 2, 2, 3, 4, 4, 4])
    }

    func testPreprocessingRefusesWhatCannotWork() {
        let (mean, std): ([Float], [Float]) = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
        XCTAssertThrowsError(try Preprocessing(resize: 200, crop: 224, mean: mean, std: std))
        XCTAssertThrowsError(try Preprocessing(resize: 0, crop: 0, mean: mean, std: std))
        XCTAssertThrowsError(try Preprocessing(resize: 1 << 40, crop: 224, mean: mean, std: std))
        XCTAssertThrowsError(try Preprocessing(resize: 32, crop: 32, mean: [0.5], std: std))
        XCTAssertThrowsError(try Preprocessing(resize: 32, crop: 32, mean: mean, std: [1, 0, 1]))
        XCTAssertThrowsError(try Preprocessing(resize: 32, crop: 32, mean: [.nan, 0, 0], std: std))
    }

    /// A resize of extreme images costs what the crop costs.
    func testExtremeAspectsAreCheap() throws {
        let preprocessing = try Preprocessing(resize: 256, crop: 224, mean: [0, 0, 0], std: [1, 1, 1])
        for (width, height) in [(1, 500_000), (500_000, 1)] {
            let image = RGBImage(
                width: width, height: height, pixels: [UInt8](repeating: 51, count: 3 * width * height))
            let start = processorTime()
            XCTAssertTrue(preprocessing.apply(to: image).allSatisfy { abs($0 - 0.2) < 1e-6 })
            if !isInstrumented { XCTAssertLessThan(processorTime() - start, 1) }
        }
    }

    func testColourAndBlur() throws {
        let fixtures = try Fixtures()
        try withEveryRow {
            for item in fixtures.manifest.adjust {
                let source = try fixtures.image(item.source)
                let value = try XCTUnwrap(item.value)
                let (w, h, n) = (source.width, source.height, source.width * source.height)
                var pixels = source.pixels
                switch item.operation {
                case "brightness": hssl_adjust_brightness(n, &pixels, value)
                case "contrast": hssl_adjust_contrast(n, &pixels, value)
                case "saturation": hssl_adjust_saturation(n, &pixels, value)
                case "hue": hssl_adjust_hue(n, &pixels, value)
                case "grayscale": hssl_grayscale(n, &pixels)
                case "solarize": hssl_solarize(n, &pixels, Int32(value))
                case "flip": hssl_flip_horizontal(w, h, &pixels)
                case "blur":
                    var workspace = [UInt8](repeating: 0, count: hssl_gaussian_blur_workspace_size(w, h))
                    hssl_gaussian_blur(w, h, &pixels, value, &workspace)
                default: XCTFail("no such operation: \(item.operation ?? "")")
                }
                XCTAssertEqual(pixels, try fixtures.bytes(item.expected), "\(item.operation ?? "") \(value)")
            }
        }
    }

    private func resize(_ source: RGBImage, _ plan: inout hssl_resize) -> RGBImage {
        let size = hssl_resize_bicubic_workspace_size(&plan), guardSize = 64
        var pixels = [UInt8](repeating: 0, count: 3 * plan.crop_width * plan.crop_height)
        withUnsafeTemporaryAllocation(byteCount: size + guardSize, alignment: 64) { workspace in
            workspace.initializeMemory(as: UInt8.self, repeating: 0xA5)
            hssl_resize_bicubic(&plan, source.pixels, 3 * source.width, &pixels, workspace.baseAddress)
            XCTAssertTrue(workspace[size...].allSatisfy { $0 == 0xA5 }, "written past the workspace")
        }
        return RGBImage(width: plan.crop_width, height: plan.crop_height, pixels: pixels)
    }
}
