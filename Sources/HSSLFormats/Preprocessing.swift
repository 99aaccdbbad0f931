/// How an image becomes a model's input, as a model file stores it. `HSSLData` applies it.
///
/// Transparent pictures on `background`, shorter side → `resize` (antialiased), centre crop `crop` × `crop`, /255,
/// (x − mean)/std per channel.
public struct Preprocessing: Equatable, Sendable {
    public enum Interpolation: String, CaseIterable, Sendable {
        case bicubic, bilinear
    }

    /// Pixels of the shorter side after resizing.
    public let resize: Int
    /// Side of the square that is cut out, pixels: the model's image size.
    public let crop: Int
    public let interpolation: Interpolation
    /// Of red, green and blue, for values in 0 … 1.
    public let mean: [Float]
    public let std: [Float]
    /// What shows through where a picture is transparent.
    public var background = RGBColor.black

    /// Values may come from a model file; what cannot work is an error.
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
    public let reason: String
    public var description: String { "preprocessing: \(reason)" }
}
