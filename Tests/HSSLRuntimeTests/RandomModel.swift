import CSupport
import HSSLFormats
import HSSLGraph
import XCTest

@testable import HSSLModels
@testable import HSSLRuntime

/// A model with random weights and the Tape's forward pass over it: the oracle.
struct RandomModel {
    let architecture: ModelArchitecture
    let parameters = ParameterSet()
    let pool = BufferPool()
    private let model: any Base

    init(
        imageSize: Int = 20, patchSize: Int = 5, embedDim: Int = 36, depth: Int = 2, numHeads: Int = 3, seed: UInt64 = 1
    ) throws {
        try self.init(
            VisionTransformer.Configuration(
                imageSize: imageSize, patchSize: patchSize, embedDim: embedDim, depth: depth, numHeads: numHeads),
            seed: seed)
    }

    init(_ configuration: any BaseConfiguration, seed: UInt64 = 1) throws {
        architecture = try ModelArchitecture(configuration)
        model = architecture.makeBase(ParameterScope(parameters), .deployment)
        parameters.allocate(from: pool)
        parameters.initialize(seed: seed)
        // Zero biases and unit norms would hide a wrong operand.
        var random = CounterRandom(seed: seed, stream: 7, 0)
        for parameter in parameters.all {
            let scale: Float = parameter.name.hasSuffix("proj.weight") || parameter.name.hasSuffix("fc2.weight") ? 4 : 1
            for i in 0..<parameter.count {
                parameter.values[i] = parameter.values[i] * scale + random.uniform(-0.1, 0.1)
            }
            parameter.valuesDidChange()
        }
    }

    func images(_ count: Int, seed: UInt64 = 3) -> [Float] {
        var random = CounterRandom(seed: seed, stream: 11, 0)
        return (0..<count * 3 * architecture.imageSize * architecture.imageSize).map { _ in random.normal() }
    }

    /// Tokens after the final norm, [count, 1+N, D], by plain execution.
    func tapeTokens(_ images: [Float], precision: Precision = .float32) -> [Float] {
        let tape = Tape(mode: .inference, precision: precision, pool: pool)
        let size = architecture.imageSize
        let input = tape.input(shape: [images.count / (3 * size * size), 3, size, size])
        input.values.update(from: images, count: images.count)
        let output = model(input, mask: nil, Pass())
        let (cls, patches) = (model.global(output).array(), model.local(output, cells: nil).array())
        let (width, sample) = (model.width, patches.count / output.count)
        return (0..<output.count).flatMap { (b: Int) -> [Float] in
            Array(cls[b * width..<(b + 1) * width]) + Array(patches[b * sample..<(b + 1) * sample])
        }
    }

    /// The wanted features by definition, from the Tape's tokens.
    func expected(_ features: Features, _ images: [Float], normalize: Bool, precision: Precision = .float32) -> [Float]
    {
        let tokens = tapeTokens(images, precision: precision)
        let width = model.width
        let patches = model.grid(height: architecture.imageSize, width: architecture.imageSize).count
        let sample = (1 + patches) * width
        return stride(from: 0, to: tokens.count, by: sample).flatMap { start -> [Float] in
            let cls = Array(tokens[start..<start + width])
            let rows = (1...patches).map { Array(tokens[start + $0 * width..<start + ($0 + 1) * width]) }
            let mean = (0..<width).map { column in Float(rows.reduce(0.0) { $0 + Double($1[column]) } / Double(patches))
            }
            switch features {
            case .cls: return normalize ? unit(cls) : cls
            case .mean: return normalize ? unit(mean) : mean
            case .clsMean: return normalize ? unit(cls + mean) : cls + mean
            case .patch: return rows.flatMap { normalize ? unit($0) : $0 }
            case .clsPatch: return ([cls] + rows).flatMap { normalize ? unit($0) : $0 }
            }
        }
    }

    func write(_ path: String, _ precision: Precision) throws {
        let size = architecture.imageSize
        try ModelFile.write(
            path: path, architecture: architecture,
            preprocessing: Preprocessing(resize: size, crop: size, mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]),
            provenance: ModelProvenance(
                method: "random", head: "none", data: "none", epochs: 0, precision: "float32", version: "test"),
            precision: precision, parameters: parameters)
    }

    func session(precision: Precision = .float32, threads: Int = 1) throws -> Session {
        try Session(
            model: Model(architecture: architecture, parameters: parameters, precision: precision), threads: threads)
    }
}

func unit(_ x: [Float]) -> [Float] {
    let norm = x.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
    return x.map { Float(Double($0) / norm) }
}

func cosine(_ a: [Float], _ b: [Float]) -> Double {
    var (ab, aa, bb) = (0.0, 0.0, 0.0)
    for (x, y) in zip(a, b) {
        ab += Double(x) * Double(y)
        aa += Double(x) * Double(x)
        bb += Double(y) * Double(y)
    }
    return ab / (aa * bb).squareRoot()
}

/// Largest difference over the largest magnitude.
func relativeError(_ a: [Float], _ b: [Float]) -> Float {
    guard a.count == b.count else { return .infinity }
    let scale = b.reduce(0) { max($0, abs($1)) }
    return zip(a, b).reduce(0) { max($0, abs($1.0 - $1.1)) } / scale
}

extension Session {
    func rows(_ images: [Float], _ features: Features = .cls, normalize: Bool = false) throws -> [Float] {
        let count = images.count / model.imageCount
        var output = [Float](repeating: .nan, count: count * model.rowCount(features))
        try extract(images: images, count: count, features: features, normalize: normalize, into: &output)
        return output
    }
}

/// Selects a row for the time of `body`, then returns to the one before.
func withISA<T>(_ isa: hssl_isa, _ body: () throws -> T) rethrows -> T {
    let earlier = hssl_isa_selected()
    _ = hssl_isa_select(isa)
    defer { _ = hssl_isa_select(earlier) }
    return try body()
}

var supportedISAs: [hssl_isa] { (0..<HSSL_ISA_COUNT.rawValue).map { hssl_isa($0) }.filter(hssl_isa_supported) }
