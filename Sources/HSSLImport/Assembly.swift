import HSSLFormats
import HSSLGraph
import HSSLModels

#if canImport(Glibc)
    import Glibc
#endif

/// How every parameter of an architecture is made of foreign tensors.
struct Assembly {
    private let network: ForeignNetwork
    /// Pixels a side that the positions were learned for.
    private let nativeSize: Int
    /// Names of ours that were used.
    private var used: Set<String> = []
    private var folded: [String] = []
    private var resampled: [String] = []

    init(_ network: ForeignNetwork, nativeSize: Int) { (self.network, self.nativeSize) = (network, nativeSize) }

    /// - Throws: `FileError` for the first tensor that is missing, misshapen or not asked for.
    mutating func values(of architecture: ModelArchitecture) throws -> [String: () throws -> [Float]] {
        var values: [String: () throws -> [Float]] = [:]
        for parameter in ModelTrace(architecture).parameters.all {
            let (name, shape) = (parameter.name, parameter.shape)
            switch architecture.configuration {
            case let resNet as ResNet.Configuration where resNet.norm == .none:
                values[name] = try convolution(name, shape)
            case let vit as VisionTransformer.Configuration where ["cls_token", "pos_embed"].contains(name):
                values[name] = try name == "cls_token" ? classToken(vit, shape) : positions(vit, shape)
            default: values[name] = try plain(name, shape)
            }
        }
        if let stranger = network.entries.keys.filter({ !used.contains($0) }).min() {
            throw network.fault(
                "unexpected tensor '\(network.foreignName(stranger))': \(architecture.name) of these sizes has none")
        }
        return values
    }

    /// Verifies now what can be: the shape.
    private mutating func verified(_ name: String, _ expected: [Int]) throws {
        used.insert(name)
        guard let entry = network.entries[name] else { throw network.fault("tensor '\(name)' is missing") }
        guard entry.parts.count == entry.count || name.hasSuffix("attn.qkv.bias") else {
            throw network.fault("a part of '\(name)' is missing besides '\(network.foreignName(name))'")
        }
        let found = try network.shape(name)
        guard found.filter({ $0 != 1 }) == expected.filter({ $0 != 1 }) else {
            if name.hasSuffix("relative_position_bias_table") {
                throw network.fault(
                    "tensor '\(network.foreignName(name))' has shape \(found), the image size asks for \(expected): "
                    + "a stage has fewer cells than a window, and tables of relative positions are not resampled; "
                    + "give a larger --image-size"
                )
            }
            throw network.mismatch(name, expected: expected, found: found)
        }
    }

    private mutating func plain(_ name: String, _ shape: [Int]) throws -> () throws -> [Float] {
        if name.hasSuffix("attn.qkv.bias"), network.entries[name] == nil {
            folded.append("\(name) = 0: the source has none")
            return { [Float](repeating: 0, count: shape.reduce(1, *)) }
        }
        try verified(name, shape)
        let network = network
        return { try network.values(name, shape: shape) }
    }

    // MARK: Vision transformers

    /// With registers, the position of CLS becomes part of CLS.
    private mutating func classToken(
        _ vit: VisionTransformer.Configuration, _ shape: [Int]
    ) throws -> () throws -> [Float] {
        try verified("cls_token", shape)
        let network = network
        guard !vit.positionsCoverClass, network.has("pos_embed"), case let foreign = try network.shape("pos_embed"),
            foreign.count > 1, Recognition.grid(foreign[1])?.hasClass == true
        else { return { try network.values("cls_token", shape: shape) } }
        folded.append("cls_token += \(network.foreignName("pos_embed"))[0]")
        return {
            let token = try network.values("cls_token", shape: shape)
            return zip(token, try network.values("pos_embed", shape: foreign)).map(+)
        }
    }

    private mutating func positions(
        _ vit: VisionTransformer.Configuration, _ shape: [Int]
    ) throws -> () throws -> [Float] {
        used.insert("pos_embed")
        let network = network
        let foreign = try network.shape("pos_embed")
        let width = vit.embedDim
        guard foreign.count == 3, foreign[0] == 1, foreign[2] == width,
            let (side, hasClass) = Recognition.grid(foreign[1])
        else {
            throw network.mismatch("pos_embed", expected: shape, found: foreign)
        }
        let method = network.convention.positions
        let target = vit.grid
        let covers = vit.positionsCoverClass
        if target != side {
            resampled.append(
                "positions \(side)×\(side) → \(target)×\(target): \(method.rawValue), as \(network.convention.name)")
        }
        return {
            let table = try network.values("pos_embed", shape: foreign)
            let first = hasClass ? width : 0
            var cells = Array(table[first...])
            if target != side {
                cells =
                    method == .computed
                    ? Self.sines(target, width: width)
                    : PositionResampling.resampled(
                        cells, from: side, to: Grid(height: target, width: target), width: width, method.resampling)
            }
            // Where no row for CLS was learned but one is asked for, it adds nothing.
            return covers ? (hasClass ? Array(table[..<first]) : [Float](repeating: 0, count: width)) + cells : cells
        }
    }

    /// MoCo v3's positions, which are computed: sines and cosines of the column, then of the row, as its
    /// `build_2d_sincos_position_embedding`, whose grid has the row as its first axis.
    private static func sines(_ side: Int, width: Int) -> [Float] {
        let quarter = width / 4
        let frequencies = (0..<quarter).map { 1 / pow(10_000, Double($0) / Double(quarter)) }
        return (0..<side * side).flatMap { cell -> [Float] in
            [Double(cell / side), Double(cell % side)].flatMap { coordinate -> [Float] in
                let angles = frequencies.map { coordinate * $0 }
                return angles.map { Float(sin($0)) } + angles.map { Float(cos($0)) }
            }
        }
    }

    // MARK: ResNet

    /// A convolution with the batch norm behind it: w·γ/√(σ² + ε) and β − μ·γ/√(σ² + ε).
    private mutating func convolution(_ name: String, _ shape: [Int]) throws -> () throws -> [Float] {
        let (convolution, kind, norm) = Self.batchNorm(of: name)
        if kind == "weight" { try verified(name, shape) }
        let channels = [shape[0]]
        for statistic in ["weight", "bias", "running_mean", "running_var"] {
            try verified("\(norm).\(statistic)", channels)
        }
        if kind == "weight" { folded.append("\(norm) → \(convolution)") }
        let network = network
        return {
            func values(_ statistic: String) throws -> [Float] {
                try network.values("\(norm).\(statistic)", shape: channels)
            }
            let (gamma, variance) = (try values("weight"), try values("running_var"))
            if let index = variance.firstIndex(where: { $0 < 0 }) {
                throw network.fault(
                    "tensor '\(network.foreignName("\(norm).running_var"))' is negative at element \(index)")
            }
            let factors = zip(gamma, variance).map { Double($0) / (Double($1) + Self.batchNormEpsilon).squareRoot() }
            guard kind == "weight" else {
                let (beta, mean) = (try values("bias"), try values("running_mean"))
                return factors.indices.map { Float(Double(beta[$0]) - Double(mean[$0]) * factors[$0]) }
            }
            var weight = try network.values(name, shape: shape)
            let width = weight.count / max(factors.count, 1)
            for (row, factor) in factors.enumerated() {
                for i in row * width..<(row + 1) * width { weight[i] = Float(Double(weight[i]) * factor) }
            }
            return weight
        }
    }

    static let batchNormEpsilon = 1e-5

    /// Of a parameter `layer1.0.conv1.weight`: the convolution, `weight`, and the batch norm behind it.
    static func batchNorm(of parameter: String) -> (convolution: String, kind: String, norm: String) {
        var parts = parameter.split(separator: ".").map(String.init)
        let kind = parts.popLast() ?? ""
        let convolution = parts.joined(separator: ".")
        let last = parts.popLast() ?? ""
        parts.append(parts.last == "downsample" ? "1" : last.replacing("conv", with: "bn"))
        return (convolution, kind, parts.joined(separator: "."))
    }

    // MARK: Report

    /// What became of the file's tensors, alike names together.
    var lines: [String] {
        var lines: [String] = []
        func list(_ what: String, _ items: [String]) {
            var counts: [String: Int] = [:]
            var order: [String] = []
            for item in items.map(Self.pattern) where counts.updateValue((counts[item] ?? 0) + 1, forKey: item) == nil {
                order.append(item)
            }
            guard !order.isEmpty else { return }
            lines.append("\(what): \(items.count)")
            lines += order.map { "  \($0)\((counts[$0] ?? 1) > 1 ? " (\(counts[$0] ?? 1))" : "")" }
        }
        list("taken as they are", network.renamed.filter { $0.from == network.prefix + $0.to }.map(\.to))
        list(
            "renamed",
            network.renamed.filter { $0.from != network.prefix + $0.to }.map { from, to in
                let isPart = (network.entries[to]?.count ?? 1) > 1
                return "\(oneLine(from, limit: 200)) → \(to)\(isPart ? " (a part)" : "")"
            })
        list("folded", folded)
        list("resampled", resampled)
        list("left out", network.left.map { oneLine($0, limit: 200) })
        return lines
    }

    /// Numbers among dotted components become `#`.
    private static func pattern(_ text: String) -> String {
        text.split(separator: " ", omittingEmptySubsequences: false).map { word in
            guard word.contains(".") else { return String(word) }
            return word.split(separator: ".", omittingEmptySubsequences: false)
                .map { $0.allSatisfy(\.isNumber) && !$0.isEmpty ? "#" : String($0) }.joined(separator: ".")
        }.joined(separator: " ")
    }
}

extension SourceConvention.PositionMethod {
    fileprivate var resampling: PositionResampling.Method {
        switch self {
        case .dino: .dino
        case .plain, .computed: .plain
        case .antialiased: .antialiased
        }
    }
}
