/// How an image becomes a model's input, as a model file stores it. `HSSLData` applies it.
///
/// Transparent pictures on `background`, shorter side → `resize` (antialiased), centre crop `crop` × `crop`, /255,
/// (x − mean)/std per channel.
public struct Preprocessing: Equatable, Sendable {
    /// How an image is resized: Pillow's filters, widened when they shrink an image (antialiased).
    public enum Interpolation: String, CaseIterable, Sendable {
        /// `bicubic` (a = −0.5) weighs four source pixels along each axis, `bilinear` two; more where the image
        /// shrinks.
        case bicubic, bilinear
    }

    /// Pixels of the shorter side after resizing.
    public let resize: Int
    /// Side of the square that is cut out, pixels: the model's image size.
    public let crop: Int
    /// The filter of the resizing.
    public let interpolation: Interpolation
    /// Subtracted from red, green and blue in 0 … 1: three finite numbers.
    public let mean: [Float]
    /// Divides red, green and blue after that: three numbers above 0.
    public let std: [Float]
    /// What shows through where a picture is transparent.
    public var background = RGBColor.black

    /// Values may come from a model file; what cannot work is an error.
    ///
    /// - Throws: ``PreprocessingError`` unless 1 ≤ crop ≤ resize ≤ 16384, `mean` has three finite numbers, and `std`
    ///   three above 0.
    public init(
        resize: Int, crop: Int, interpolation: Interpolation = .bicubic, mean: [Float], std: [Float]
    ) throws(PreprocessingError) {
        guard crop >= 1, crop <= resize, resize <= Self.largestSide else {
            throw PreprocessingError(
                reason: "crop \(crop) and resize \(resize) must be 1 ≤ crop ≤ resize ≤ \(Self.largestSide)")
        }
        guard mean.count == 3, std.count == 3 else {
            throw PreprocessingError(reason: "mean and std must have 3 entries, not \(mean.count) and \(std.count)")
        }
        guard mean.allSatisfy(\.isFinite), std.allSatisfy({ $0.isFinite && $0 > 0 }) else {
            throw PreprocessingError(reason: "mean must be finite and std positive")
        }
        self.resize = resize
        self.crop = crop
        self.interpolation = interpolation
        self.mean = mean
        self.std = std
    }

    private static let largestSide = 1 << 14

    /// Elements of a prepared image, [3, crop, crop].
    public var count: Int { 3 * crop * crop }
}

/// Preprocessing values that cannot be used, in one line.
public struct PreprocessingError: Error, Equatable, Sendable, CustomStringConvertible {
    /// Which value cannot be used and why, in one line.
    public let reason: String
    public var description: String { "preprocessing: \(reason)" }
}
