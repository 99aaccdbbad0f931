import CSupport
import XCTest

/// Every registered row of the image family gives the scalar row's bytes, at sizes around every vector and block width.
final class ImageKernelTests: XCTestCase {
    override class func setUp() {
        var message = [CChar](repeating: 0, count: 200)
        XCTAssertEqual(hssl_initialize(&message, message.count), 0)
    }

    private func texture(_ width: Int, _ height: Int) -> [UInt8] {
        var words: [UInt32] = [0, 0, 0, 0]
        return (0..<3 * width * height).map { i in
            if i % 16 == 0 { hssl_philox(UInt64(width), UInt64(i), UInt64(height), &words) }
            let noise = UInt8(truncatingIfNeeded: words[i / 4 % 4] >> (UInt32(i % 4) * 8))
            return i / 97 % 3 == 0 ? UInt8(truncatingIfNeeded: i / 5) : noise
        }
    }

    /// Runs `body` on the scalar row and on every other; `body` returns what it computed.
    private func compareRows<Result: Equatable>(_ note: String, _ body: () -> Result) {
        let selected = hssl_isa_selected()
        defer { XCTAssertTrue(hssl_isa_select(selected)) }
        XCTAssertTrue(hssl_isa_select(HSSL_ISA_SCALAR))
        let scalar = body()
        let rows = (0..<hssl_kernel_count()).map { hssl_kernel_at($0) }.filter { String(cString: $0.family) == "image" }
        XCTAssertFalse(rows.isEmpty)
        for row in rows where hssl_isa_select(row.isa) {
            XCTAssertEqual(body(), scalar, "\(note) \(String(cString: row.name))")
        }
    }

    func testResize() {
        for (inWidth, inHeight) in [(1, 1), (5, 3), (16, 16), (33, 70), (130, 41)] {
            let source = texture(inWidth, inHeight)
            for (width, height) in [(1, 1), (5, 4), (6, 90), (21, 22), (22, 21), (43, 7), (64, 65)] {
                compareRows("\(inWidth)x\(inHeight) to \(width)x\(height)") {
                    var plan = hssl_resize_whole(inWidth, inHeight, width, height)
                    return resized(source, &plan, stride: 3 * inWidth)
                }
            }
        }
    }

    /// A constant image stays constant whatever the weights: they sum to 1 within their precision.
    func testResizeKeepsConstants() {
        for value: UInt8 in [0, 1, 127, 254, 255] {
            for (inside, outside) in [(7, 300), (300, 7), (64, 63), (2, 3)] {
                var plan = hssl_resize_whole(inside, inside, outside, outside)
                let result = resized([UInt8](repeating: value, count: 3 * inside * inside), &plan, stride: 3 * inside)
                XCTAssertTrue(result.allSatisfy { $0 == value }, "\(inside) to \(outside)")
            }
        }
    }

    /// A crop given by pointer and stride is the resize of the copied crop: nothing outside is looked at.
    func testStrideSelectsAPartOfAnImage() {
        let (width, height) = (40, 30)
        let source = texture(width, height)
        let part: [UInt8] = (5..<25).flatMap { (row: Int) -> ArraySlice<UInt8> in
            let start = 3 * (row * width + 11)
            return source[start..<start + 3 * 17]
        }
        var plan = hssl_resize_whole(17, 20, 28, 9)
        let copied = resized(part, &plan, stride: 3 * 17)
        let first = 3 * (5 * width + 11)
        let inPlace = resized(Array(source[first...]), &plan, stride: 3 * width)
        XCTAssertEqual(inPlace, copied)
    }

    func testBlur() {
        for (width, height) in [(1, 1), (2, 9), (5, 5), (6, 1), (31, 17), (64, 8)] {
            for sigma: Float in [0.1, 1.4, 1.5, 2, 9, 64] {
                compareRows("blur \(width)x\(height) \(sigma)") {
                    var pixels = texture(width, height)
                    var workspace = [UInt8](repeating: 0, count: hssl_gaussian_blur_workspace_size(width, height))
                    hssl_gaussian_blur(width, height, &pixels, sigma, &workspace)
                    return pixels
                }
            }
        }
    }

    func testColour() {
        for count in [1, 2, 15, 16, 17, 63, 64, 65, 1000, 70_000] {
            let source = texture(count, 1)
            for factor: Float in [0, 0.61, 1, 1.37, 3] {
                compareRows("factor \(factor) on \(count)") {
                    var pixels = source
                    hssl_adjust_brightness(count, &pixels, factor)
                    hssl_adjust_contrast(count, &pixels, factor)
                    hssl_adjust_saturation(count, &pixels, factor)
                    return pixels
                }
            }
            for shift: Float in [-0.5, -0.1, 0.03, 0.5] {
                compareRows("hue \(shift) on \(count)") {
                    var pixels = source
                    hssl_adjust_hue(count, &pixels, shift)
                    return pixels
                }
            }
            compareRows("normalise \(count)") {
                var planes = [Float](repeating: .nan, count: 3 * count)
                hssl_normalize_rgb(count, source, [0.1, 0.5, 0.7], [0.2, 0.25, 0.3], &planes)
                return planes
            }
        }
    }

    func testFlipIsItsOwnInverse() {
        for width in [1, 2, 3, 8, 9] {
            let source = texture(width, 4)
            var pixels = source
            hssl_flip_horizontal(width, 4, &pixels)
            XCTAssertEqual(Array(pixels[..<3]), Array(source[3 * (width - 1)..<3 * width]))
            hssl_flip_horizontal(width, 4, &pixels)
            XCTAssertEqual(pixels, source)
        }
    }

    private func resized(_ source: [UInt8], _ plan: inout hssl_resize, stride: Int) -> [UInt8] {
        var target = [UInt8](repeating: 0, count: 3 * plan.crop_width * plan.crop_height)
        withUnsafeTemporaryAllocation(byteCount: hssl_resize_bicubic_workspace_size(&plan), alignment: 64) {
            hssl_resize_bicubic(&plan, source, stride, &target, $0.baseAddress)
        }
        return target
    }
}
