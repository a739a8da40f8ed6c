/** The part of Swagger UI that docs.ts uses. */
declare module "swagger-ui-dist/swagger-ui-es-bundle.js" {
  /** A request that is about to be sent. */
  interface SwaggerRequest {
    headers: Record<string, string>
  }

  /** Shows an OpenAPI document. */
  export default function SwaggerUI(options: {
    domNode: HTMLElement
    url: string
    deepLinking?: boolean
    displayRequestDuration?: boolean
    tryItOutEnabled?: boolean
    validatorUrl?: string | null
    defaultModelsExpandDepth?: number
    requestInterceptor?: (request: SwaggerRequest) => SwaggerRequest
  }): unknown
}
