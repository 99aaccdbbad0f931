import HSSLGraph
import HSSLModels

/// A deployed model in float32 over example images: what its products read, and what 8-bit codes make of each.
struct Calibration {
    private let trace: ModelTrace
    private let parameters = ParameterSet()
    private let base: any Base

    /// - Parameter values: of a parameter of the deployed model, row-major.
    init(_ architecture: ModelArchitecture, values: (String) throws -> [Float]) rethrows {
        trace = ModelTrace(architecture)
        base = architecture.makeBase(ParameterScope(parameters), .deployment)
        parameters.allocate(from: BufferPool())
        for parameter in parameters.all {
            parameter.values.update(from: try values(parameter.name), count: parameter.count)
            parameter.valuesDidChange()
        }
    }

    /// The largest magnitude in each column of the input of each product of the policy, by the name of its weight.
    ///
    /// - Parameter images: prepared ones, [C, H, W] each.
    func ranges(_ images: [[Float]]) -> [String: [Float]] {
        var result: [String: [Float]] = [:]
        for image in images {
            visitProducts(image) { product in
                var ranges = result[product.name] ?? [Float](repeating: 0, count: product.width)
                for row in 0..<product.rows {
                    for column in 0..<product.width {
                        ranges[column] = max(ranges[column], abs(product.input.floats[row * product.width + column]))
                    }
                }
                result[product.name] = ranges
            }
        }
        return result
    }

    /// The mean cosine between a product's rows over 8-bit codes and in float32, by the name of its weight: each
    /// product by itself, on what it reads in float32.
    func productCosines(_ images: [[Float]]) -> [String: Double] {
        var sums: [String: (sum: Double, rows: Int)] = [:]
        for image in images {
            visitProducts(image) { product in
                let shape = [product.rows, product.width]
                let outputs = [Precision.float32, .int8].map { precision -> (values: [Float], width: Int) in
                    let tape = Tape(mode: .inference, precision: precision, pool: BufferPool())
                    let x = tape.constant(shape: shape, storage: product.input)
                    let y = x.linear(weight: product.weight(tape), bias: nil)
                    return (y.array(), y.width)
                }
                var (sum, rows) = sums[product.name] ?? (0, 0)
                for row in 0..<product.rows {
                    let range = row * outputs[0].width..<(row + 1) * outputs[0].width
                    sum += cosine(outputs[0].values[range], outputs[1].values[range])
                    rows += 1
                }
                sums[product.name] = (sum, rows)
            }
        }
        return sums.mapValues { $0.sum / Double($0.rows) }
    }

    private struct Product {
        let name: String
        let rows: Int
        let width: Int
        let input: Buffer
        let weight: (Tape) -> Tensor
    }

    private func visitProducts(_ image: [Float], _ body: (Product) -> Void) {
        // A training tape keeps what products read.
        let tape = Tape(mode: .training, pool: BufferPool())
        let architecture = trace.architecture
        let images = tape.input(shape: [1, architecture.channels, architecture.imageSize, architecture.imageSize])
        images.values.update(from: image, count: images.count)
        let output = base(images, mask: nil, Pass())
        _ = (base.global(output), base.local(output, cells: nil))
        let names = trace.policyProducts
        let products = tape.nodes.filter { if case .linear(_, _, .policy) = $0.operation { true } else { false } }
        precondition(names.count == products.count, "a tape of values has the products of a tape of shapes")
        for (name, node) in zip(names, products) {
            guard case .floats(let input)? = node.saved.first else { continue }
            let shape = tape.shapes[node.inputs[1]], width = shape.dropFirst().reduce(1, *)
            let rows = node.shape.dropLast().reduce(1, *)
            body(Product(name: name, rows: rows, width: width, input: input) { other in
                if let parameter = tape.parameter(of: node.inputs[1]) { return other.parameter(parameter) }
                guard case .floats(let values) = node.saved[1] else {
                    preconditionFailure("a weight that was computed is kept")
                }
                return other.constant(shape: shape, storage: values)
            })
        }
    }
}
