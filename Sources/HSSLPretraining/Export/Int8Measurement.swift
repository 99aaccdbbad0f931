import HSSLData
import HSSLFormats
import HSSLGraph
import HSSLModels
import HSSLRuntime

/// Whether an int8 export moves scales from channels into the products that read them.
public enum Smoothing: String, Sendable, CaseIterable {
    /// Where plain codes lose something and smoothed ones lose less.
    case auto
    case on, off
}

/// What `hssl export --precision int8` is asked to do.
public struct Int8Options {
    /// A data set to measure over; nil: generated images.
    public var calibration: String?
    public var smoothing = Smoothing.auto
    public init(calibration: String? = nil, smoothing: Smoothing = .auto) {
        (self.calibration, self.smoothing) = (calibration, smoothing)
    }
}

/// How near the features of an int8 model are to those of the float32 model that it was made from.
public struct Int8Measurement {
    public internal(set) var figures: ModelProvenance.Int8Figures
    /// Products that lose most, where the features lose too much: weight and cosine of its rows, worst first.
    public internal(set) var lossyProducts: [(weight: String, cosine: Double)] = []
    /// How the values of the written model differ; nil: they do not.
    var scaling: ChannelScaling?
    /// What else there is to say, a line each.
    private var notes: [String] = []

    /// Of a file for another runtime, measured there or in its stead.
    package init(figures: ModelProvenance.Int8Figures, notes: [String]) {
        (self.figures, self.notes) = (figures, notes)
    }

    /// Why a model has no codes.
    package static let overflow = "its features are not finite already in float32: int8 has nothing to be near to"

    /// Below this mean cosine the loss is warned of.
    public static let warningLimit = 0.99
    /// Plain codes that keep this much are left as they are.
    static let goal = 0.999

    /// Measures plain codes, and smoothed ones where that is wanted.
    ///
    /// - Parameters:
    ///   - path: of the model, for errors.
    ///   - values: of a parameter of the deployed float32 model, row-major.
    init(
        _ architecture: ModelArchitecture, _ preprocessing: Preprocessing, _ options: Int8Options, path: String,
        values: (String) throws -> [Float]
    ) throws {
        let calibration = try CalibrationImages(options, preprocessing)
        let images = calibration.images
        notes = calibration.notes
        func features(_ precision: Precision, _ scaling: ChannelScaling? = nil) throws -> [[Float]] {
            try Self.features(architecture, precision, images) { name, shape in
                let plain = try values(name)
                return scaling.map { $0.values(plain, of: name, shape: shape) } ?? plain
            }
        }
        let wanted = try features(.float32)
        guard wanted.allSatisfy({ $0.allSatisfy(\.isFinite) }) else {
            throw PretrainingError("\(path): \(Self.overflow)")
        }
        func cosines(_ scaling: ChannelScaling? = nil) throws -> [Double] {
            zip(wanted, try features(.int8, scaling)).map { cosine($0, $1) }
        }
        let plain = try cosines()
        var best = plain
        let plainMean = plain.reduce(0, +) / Double(plain.count)
        if options.smoothing == .on || options.smoothing == .auto && plainMean < Self.goal {
            let candidate = try ChannelScaling(architecture, images: images, values: values)
            let smoothed = try cosines(candidate)
            if options.smoothing == .on || smoothed.reduce(0, +) > plain.reduce(0, +) {
                (scaling, best) = (candidate, smoothed)
            }
        }
        figures = ModelProvenance.Int8Figures(
            meanCosine: best.reduce(0, +) / Double(best.count), leastCosine: best.min() ?? 0, images: images.count,
            source: calibration.source, plainMeanCosine: plainMean, smoothedGroups: scaling?.groupCount ?? 0)
        if figures.meanCosine < Self.warningLimit {
            let scaling = self.scaling
            let shapes = ModelTrace(architecture).parameters
            let written = try Calibration(architecture) { name in
                let plain = try values(name)
                return scaling.map { $0.values(plain, of: name, shape: shapes[name]?.shape ?? []) } ?? plain
            }
            lossyProducts = written.productCosines(Array(images.prefix(2)))
                .filter { $0.value < Self.goal }
                .sorted { ($0.value, $0.key) < ($1.value, $1.key) }
                .prefix(5).map { ($0.key, $0.value) }
        }
    }

    private static func features(
        _ architecture: ModelArchitecture, _ precision: Precision, _ images: [[Float]],
        _ values: (String, [Int]) throws -> [Float]
    ) throws -> [[Float]] {
        let parameters = ParameterSet()
        _ = architecture.makeBase(ParameterScope(parameters), .deployment)
        parameters.allocate(from: BufferPool())
        for parameter in parameters.all {
            parameter.values.update(from: try values(parameter.name, parameter.shape), count: parameter.count)
            parameter.valuesDidChange()
        }
        let model = try Model(architecture: architecture, parameters: parameters, precision: precision)
        let session = try Session(model: model)
        return try images.map { try session.extract(images: $0, count: 1, features: .cls) }
    }

    /// For people: the figure, and what was done for it.
    public var lines: [String] {
        let mean = Self.text(figures.meanCosine), least = Self.text(figures.leastCosine)
        let over = figures.source == "generated"
            ? "\(figures.images) generated images" : "\(figures.images) images of \(figures.source)"
        let first = "int8 against float32: mean cosine \(mean), least \(least) over \(over)"
        guard figures.smoothedGroups > 0 else { return [first] + notes }
        return notes + [
            first,
            "smoothed: the scales of \(figures.smoothedGroups) layers' channels moved into the weights behind them "
                + "(mean cosine \(Self.text(figures.plainMeanCosine)) without)",
        ]
    }

    /// What is wrong, in one line; nil where nothing is.
    public var warning: String? {
        guard figures.meanCosine < Self.warningLimit else { return nil }
        let products = lossyProducts.map { "\($0.weight) \(Self.text($0.cosine))" }.joined(separator: ", ")
        return "int8 features have a mean cosine of \(Self.text(figures.meanCosine)) with the float32 model's, below "
            + "\(Self.warningLimit); most is lost in \(products.isEmpty ? "no single layer" : products)"
    }

    static func text(_ cosine: Double) -> String {
        // Five places, without Foundation's formats.
        let digits = "\(Int((abs(cosine) * 100_000).rounded()))"
        let padded = String(repeating: "0", count: max(0, 6 - digits.count)) + digits
        return (cosine < 0 ? "-" : "") + padded.dropLast(5) + "." + padded.suffix(5)
    }
}
