import CSupport
import HSSLFormats

/// What a model's images go through before inference: resize the shorter side, cut out the centre, normalise.
///
/// The long side becomes ⌊resize·long/short⌋ and the crop starts at round-half-even((side − crop)/2), as torchvision
/// does; pixels are Pillow's (antialiased bicubic or bilinear). Only the part that the crop keeps is computed.
extension Preprocessing {
    /// Writes [3, crop, crop] to `output`, which must hold `count` elements.
    package func apply(to image: RGBImage, into output: UnsafeMutablePointer<Float>) {
        var plan = plan(width: image.width, height: image.height)
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: count) { pixels in
            let size = hssl_resize_bicubic_workspace_size(&plan)
            withUnsafeTemporaryAllocation(byteCount: size, alignment: 64) { workspace in
                hssl_resize_bicubic(&plan, image.pixels, 3 * image.width, pixels.baseAddress, workspace.baseAddress)
            }
            hssl_normalize_rgb(crop * crop, pixels.baseAddress, mean, std, output)
        }
    }

    /// The model's input for an image: [3, crop, crop], red, green and blue planes of (x/255 − mean)/std, row-major.
    public func apply(to image: RGBImage) -> [Float] {
        [Float](unsafeUninitializedCapacity: count) { buffer, initialized in
            if let output = buffer.baseAddress { apply(to: image, into: output) }
            initialized = count
        }
    }

    /// The crop before normalisation, [crop, crop, 3].
    package func cropped(_ image: RGBImage) -> RGBImage {
        var plan = plan(width: image.width, height: image.height)
        let pixels = [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            withUnsafeTemporaryAllocation(byteCount: hssl_resize_bicubic_workspace_size(&plan), alignment: 64) {
                workspace in
                hssl_resize_bicubic(&plan, image.pixels, 3 * image.width, buffer.baseAddress, workspace.baseAddress)
            }
            initialized = count
        }
        return RGBImage(width: crop, height: crop, pixels: pixels)
    }

    /// Bytes that resizing an image (or any part of it) to at most `side` takes beside the image: between its passes,
    /// rows of the width or of the height, the weights of both axes, and a padded row.
    package static func workspace(side: Int) -> (_ width: Int, _ height: Int) -> Int {
        { width, height in
            side == 0 ? 0 : 3 * side * (max(width, height) + 8) + 48 * (width + height) + 6 * side * side + (1 << 16)
        }
    }

    /// The crop of a picture whose values are names, not quantities: the nearest pixel of each place, as Pillow's
    /// NEAREST takes it. [crop, crop, 3].
    package func nearest(_ image: RGBImage) -> [UInt8] {
        let plan = plan(width: image.width, height: image.height)
        func sources(_ first: Int, _ out: Int, _ side: Int) -> [Int] {
            (0..<crop).map { min((2 * (first + $0) + 1) * side / (2 * out), side - 1) }
        }
        let columns = sources(plan.crop_left, plan.out_width, image.width)
        var result: [UInt8] = []
        result.reserveCapacity(count)
        for y in sources(plan.crop_top, plan.out_height, image.height) {
            for x in columns {
                let place = 3 * (y * image.width + x)
                result += image.pixels[place..<(place + 3)]
            }
        }
        return result
    }

    private func plan(width: Int, height: Int) -> hssl_resize {
        let (outWidth, outHeight) =
            width <= height ? (resize, resize * height / width) : (resize * width / height, resize)
        var plan = hssl_resize_whole(width, height, outWidth, outHeight)
        plan.crop_left = Self.halfToEven(outWidth - crop)
        plan.crop_top = Self.halfToEven(outHeight - crop)
        plan.crop_width = crop
        plan.crop_height = crop
        plan.bilinear = interpolation == .bilinear
        return plan
    }

    /// n/2, halves to the even neighbour: Python's round.
    static func halfToEven(_ n: Int) -> Int { n / 2 + (n % 4 == 3 ? 1 : 0) }
}
