import HSSLGraph
import HSSLModels

/// A convolution's windows, which become part of the operator that multiplies them.
struct Windows {
    /// The value that they are taken from.
    let source: Int
    let kernel, stride, padding: Int
    let kind: Operation.WindowSource
}

/// The nodes of a record that the outputs depend on, who reads them, and as what products appear in the graph.
struct LiveNodes {
    /// What multiplies a weight in the graph.
    enum Form {
        /// MatMul over the last axis.
        case matrix
        /// MatMul over windows that touch but do not overlap, which are an order of the elements.
        case tiles(Windows)
        /// Conv.
        case convolution(Windows)
    }

    let trace: ModelTrace
    let constants: Constants
    /// Without those that do not depend on the image.
    let nodes: [Node]
    private let readers: [Int: [Node]]
    private var windows: [Int: Windows] = [:]

    init(_ trace: ModelTrace, _ constants: Constants) {
        (self.trace, self.constants) = (trace, constants)
        var read: Set<Int> = [trace.global.id, trace.local.id]
        nodes = trace.tape.nodes.reversed().filter { node in
            guard read.contains(node.output) else { return false }
            read.formUnion(node.inputs)
            return !constants.contains(node.output)
        }.reversed()
        var readers: [Int: [Node]] = [:]
        for node in nodes { for input in node.inputs { readers[input, default: []].append(node) } }
        self.readers = readers
        for case let node in nodes {
            guard case .unfold(let kernel, let stride, let padding, let source) = node.operation else { continue }
            windows[node.output] = Windows(
                source: node.inputs[0], kernel: kernel, stride: stride, padding: padding, kind: source)
        }
    }

    /// The products of the precision policy.
    var policyProducts: [Node] {
        nodes.filter { if case .linear(_, _, .policy) = $0.operation { true } else { false } }
    }

    /// The only reader of a node's output, where it is not an output of the model.
    func onlyReader(of node: Node) -> Node? {
        guard node.output != trace.global.id, node.output != trace.local.id, let all = readers[node.output],
              all.count == 1 else { return nil }
        return all[0]
    }

    /// The layer scale behind a product, which is multiplied into it.
    func factors(of product: Node) -> Node? {
        guard case .linear(_, .none, _) = product.operation, let scale = onlyReader(of: product),
              case .scaleChannels = scale.operation, constants.contains(scale.inputs[1]) else { return nil }
        return scale
    }

    /// The rectifier behind a product: codes are made of what it leaves.
    func rectifier(of product: Node) -> Node? {
        guard let next = onlyReader(of: factors(of: product) ?? product), case .unary(.relu) = next.operation else {
            return nil
        }
        return next
    }

    /// The value that an integer convolution gives.
    func result(of product: Node) -> Int { (rectifier(of: product) ?? factors(of: product) ?? product).output }

    /// The value whose elements a product multiplies.
    func source(of product: Node) -> Int { windows[product.inputs[0]]?.source ?? product.inputs[0] }

    /// Products by their outputs, and the grids that the graph makes with their channels first, as convolutions do.
    ///
    /// - Parameter quantized: outputs of the products of codes.
    func forms(quantized: Set<Int>) -> (products: [Int: Form], channelsFirst: Set<Int>) {
        var products: [Int: Form] = [:], first: Set<Int> = []
        for node in nodes {
            let x = node.inputs[0]
            switch node.operation {
            case .linear:
                let form = form(of: node, isQuantized: quantized.contains(node.output), isFirst: first.contains(x))
                products[node.output] = form
                if case .convolution = form { first.insert(node.output) }
            case .groupNorm, .depthwiseConv, .pool: first.insert(node.output)
            case .unary, .scaleChannels: if first.contains(x) { first.insert(node.output) }
            case .residual: if node.inputs.allSatisfy({ first.contains($0) }) { first.insert(node.output) }
            default: break
            }
        }
        return (products, first)
    }

    private func form(of node: Node, isQuantized: Bool, isFirst: Bool) -> Form {
        let x = node.inputs[0]
        guard let windows = windows[x] else {
            return isFirst
                ? .convolution(Windows(source: x, kernel: 1, stride: 1, padding: 0, kind: .grid)) : .matrix
        }
        let shape = trace.tape.shapes[windows.source]
        // An integer convolution would have to give codes, too; a product of codes need not.
        let isTiled = isQuantized && windows.kind == .grid && windows.kernel == windows.stride && windows.padding == 0
            && shape[1] % windows.kernel == 0 && shape[2] % windows.kernel == 0
        return isTiled ? .tiles(windows) : .convolution(windows)
    }
}
